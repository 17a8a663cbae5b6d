"""Access to MongoDB: the client, scoped collections, pagination, change streams and leases."""
