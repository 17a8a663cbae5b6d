"""The commerce service: catalog, stock, promise search and orders."""
