"""Value types without I/O, usable by rules."""
