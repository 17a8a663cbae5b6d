"""`quanyu documents`: the manifest of the operations that front ends may ask."""

import subprocess
import sys
from pathlib import Path

import click

from services.local.errors import LocalError


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
def documents(folders: tuple[Path, ...]) -> None:
    """Prints the manifest (id -> text) of the .graphql files in FOLDERS, for QUANYU_DOCUMENTS_FILE."""
    # The gateway checks them against its schema. It is a process of its own, which no service imports.
    made = subprocess.run([sys.executable, "-m", "gateway.documents", *map(str, folders)], check=False)
    if made.returncode:
        raise LocalError("the gateway would not take these documents")
