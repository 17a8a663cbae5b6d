"""The catalog: products, their variants and the offers that sell them."""
