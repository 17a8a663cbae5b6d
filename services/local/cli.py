"""The `quanyu` command line. Each command has its own module and is registered here."""

import sys
from importlib.metadata import version
from typing import Any

import click

from services.kit.settings import SettingsError
from services.local.demo.load import demo
from services.local.documents import documents
from services.local.errors import LocalError
from services.local.events import events
from services.local.imports.command import import_
from services.local.keyfiles import keys
from services.local.mongod import MongodError
from services.local.plan import plan
from services.local.status import status
from services.local.story.command import story
from services.local.token import token
from services.local.up import up


class CommandGroup(click.Group):
    """Command group that prints a known error as one line on stderr instead of a stack trace."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (LocalError, SettingsError, MongodError) as error:
            click.echo(f"quanyu: {error}", err=True)
            sys.exit(error.status if isinstance(error, LocalError) else 2)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("quanyu"), prog_name="quanyu")
def main() -> None:
    """Quanyu on one machine: start the suite, load data, issue development tokens and keys, inspect what runs."""


for command in (up, status, token, keys, demo, import_, story, events, documents, plan):
    main.add_command(command)
