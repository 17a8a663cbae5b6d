"""The member service: consumer identity, consents, relations with brands, bindings and outreach."""
