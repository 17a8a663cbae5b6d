"""Commerce: what there is, where it is, how it gets into a consumer's hands, and the order that comes of it."""
