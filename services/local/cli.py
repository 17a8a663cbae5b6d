"""The `quanyu` command: the suite on one machine. Each group of commands stands in its own module and is added here."""

import sys
from importlib.metadata import version
from typing import Any

import click

from services.kit.settings import SettingsError
from services.local.demo.load import demo
from services.local.documents import documents
from services.local.errors import LocalError
from services.local.facts import facts
from services.local.imports.command import import_
from services.local.keyfiles import keys
from services.local.mongod import MongodError
from services.local.plan import plan
from services.local.status import status
from services.local.story.command import story
from services.local.token import token
from services.local.up import up


class OneLine(click.Group):
    """A group whose known errors are one clear line on stderr instead of a trace."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (LocalError, SettingsError, MongodError) as error:
            click.echo(f"quanyu: {error}", err=True)
            sys.exit(error.status if isinstance(error, LocalError) else 2)


@click.group(cls=OneLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("quanyu"), prog_name="quanyu")
def main() -> None:
    """Quanyu on one machine: starts the suite, shows how it is, gives out development tokens and keys."""


for command in (up, status, token, keys, demo, import_, story, facts, documents, plan):
    main.add_command(command)
