"""Demo world: invented brands and people in Sanlitun, Beijing, generated from a seed. Only the place is real."""
