"""The demo world: Beijing's Sanlitun with invented brands and people, generated from a seed. Nothing in it is real but the place."""
