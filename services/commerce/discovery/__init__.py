"""What of this kind can be in my hands here, by when, from which store."""
