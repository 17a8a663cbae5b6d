"""Prints the cost and the list size of each field of the graph: `python -m gateway.tools.field_costs`."""

import sys

from gateway.graph import schema
from gateway.limits.field_costs import format_rows


def main() -> None:
    """Writes the table to standard output."""
    sys.stdout.writelines(f"{row}\n" for row in format_rows(schema.build()._schema))


if __name__ == "__main__":
    main()
