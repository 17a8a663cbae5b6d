"""The GraphQL gateway: one graph over the four services. It authenticates, limits and translates, and has no business rule."""
