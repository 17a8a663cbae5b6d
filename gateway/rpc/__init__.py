"""gRPC clients of the services: channels and calls (`clients`), cheaper unary calls (`unary`), and a bulkhead per service (`bulkhead`)."""
