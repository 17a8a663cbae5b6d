"""Prints the schema: `python -m gateway.graph`. With `--check`, it fails if gateway/schema.graphql differs."""

from gateway.graph.schema import main

if __name__ == "__main__":
    main()
