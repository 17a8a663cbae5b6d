"""Chart: tenants, their trees of org units, stores, staff and grants."""
