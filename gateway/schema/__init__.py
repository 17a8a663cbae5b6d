"""Declarations of the GraphQL schema: decorators and functions that derive its types and fields from protobuf messages."""
