"""Command-line options that several commands share."""

from pathlib import Path

import click

from services.local.folder import Folder

DATA = Path(".quanyu")

data_option = click.option(
    "--data",
    "folder",
    default=str(DATA),
    show_default=True,
    type=click.Path(file_okay=True, path_type=Path),
    callback=lambda context, parameter, value: Folder(value),
    help="The data folder of the suite.",
)
