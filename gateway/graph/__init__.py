"""The GraphQL schema, one file for each use case: `graph/<scenario>/<use case>.py` declares the types over its `<use case>.proto`."""
