"""Organization: who belongs where, what they are meant to sell, what they are asked to do."""
