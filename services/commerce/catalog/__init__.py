"""Products, variants and the offers that sell them."""
