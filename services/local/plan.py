"""`quanyu plan`: what the gateway asks the services for an operation, level for level."""

import subprocess
import sys
from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("operation", required=False)
@click.option("--source", is_flag=True, help="Also the Python that the operation is compiled to.")
def plan(file: Path, operation: str | None, source: bool) -> None:
    """Prints the batches of each level for a .graphql FILE (of several operations, for the one that is named OPERATION)."""
    # The graph is the gateway's, which no service imports: a process of its own.
    command = [sys.executable, "-m", "gateway.plan", str(file), *([operation] if operation else []), *(["--source"] if source else [])]
    sys.exit(subprocess.run(command, check=False).returncode)
