"""Chart: tenants, their trees of units, stores, staff and grants."""
