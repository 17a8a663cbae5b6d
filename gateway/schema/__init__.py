"""Building blocks of the GraphQL schema: types, inputs and fields declared over protobuf messages."""
