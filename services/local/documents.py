"""`quanyu documents`: the command that prints the manifest of trusted documents."""

import subprocess
import sys
from pathlib import Path

import click

from services.local.errors import LocalError


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
def documents(folders: tuple[Path, ...]) -> None:
    """Prints the manifest (id -> text) of the .graphql files in FOLDERS. QUANYU_DOCUMENTS_FILE names such a manifest."""
    # A separate process, since import contracts keep the gateway's schema out of the command.
    result = subprocess.run([sys.executable, "-m", "gateway.execution.trusted_documents", *map(str, folders)], check=False)
    if result.returncode:
        raise LocalError("The manifest is not complete: correct the documents named above.")
