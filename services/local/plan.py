"""`quanyu plan`: the command that prints the execution plan of a GraphQL operation."""

import subprocess
import sys
from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("operation", required=False)
@click.option("--source", is_flag=True, help="Print the generated Python too.")
def plan(file: Path, operation: str | None, source: bool) -> None:
    """Prints the rpcs of each level for a .graphql FILE. If the file has several operations, name one as OPERATION."""
    # A separate process, since import contracts keep the gateway's graph out of the command.
    command = [
        sys.executable,
        "-m",
        "gateway.tools.plan",
        str(file),
        *([operation] if operation else []),
        *(["--source"] if source else []),
    ]
    sys.exit(subprocess.run(command, check=False).returncode)
