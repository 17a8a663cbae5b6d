"""`quanyu up`: the whole suite in the foreground, until Ctrl-C."""

import asyncio
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click
import msgspec
from rich.console import Console

from services.kit import settings as kit_settings
from services.local.demo.load import load
from services.local.folder import Folder, Member, Run
from services.local.installation import installation_of
from services.local.keys import keys_of
from services.local.mongod import Mongod, check_server
from services.local.options import DATA, data_option
from services.local.suite import base_url, resolve, stages
from services.local.supervisor import Supervisor

NEXT = {
    "story": "the first walk through the demo world, told as it happens",
    "status": "what runs and is ready",
    "token --operator": "a bearer token to ask GraphQL with",
}
"""What may be called while the suite runs."""


@click.command()
@data_option
@click.option("--mongo", metavar="URI", help="A MongoDB replica set to use; else QUANYU_MONGO_URI, else a mongod of our own.")
@click.option("--port", type=click.IntRange(0, 65535), help="The gateway's port; 0 takes a free one.  [default: 8000]")
@click.option("--demo", is_flag=True, help="Load the demo world once all is ready; where it stands, renew what ran out.")
def up(folder: Folder, mongo: str | None, port: int | None, demo: bool) -> None:
    """Starts MongoDB, the four services and the gateway, and stays until Ctrl-C.

    Every QUANYU_* setting is passed on to the processes.
    """
    environ = dict(os.environ) | ({"QUANYU_MONGO_URI": mongo} if mongo else {})
    settings = resolve(kit_settings.load(environ), port)
    with folder.claim(), database(folder, environ.get("QUANYU_MONGO_URI")) as (uri, mongod):
        settings = msgspec.structs.replace(settings, mongo_uri=uri)
        installation = installation_of(uri, settings.database_prefix)
        supervisor = Supervisor(
            stages(settings, keys_of(folder)), drain_seconds=settings.drain_seconds, mongod_alive=mongod.alive if mongod else None
        )

        async def ready(members: Sequence[Member]) -> None:
            run = Run(os.getpid(), base_url(settings), uri, settings.database_prefix, list(members), installation)
            folder.write(folder.run, run)
            if demo:
                click.echo(await load(folder, Console()))
            announce(run, folder, demo=demo)

        asyncio.run(supervisor.run(ready))
    click.echo("Everything has ended.")


@contextmanager
def database(folder: Folder, given: str | None) -> Iterator[tuple[str, Mongod | None]]:
    """Where MongoDB stands for the time of the block: the one given, else our own, which is started and ended here."""
    if given:
        check_server(given)
        yield given, None
        return
    with Mongod(folder.mongo) as mongod:
        check_server(mongod.uri)
        click.echo(f"MongoDB is ready at {mongod.uri} (its log: {mongod.log})")
        yield mongod.uri, mongod


def announce(run: Run, folder: Folder, *, demo: bool) -> None:
    """Prints where everything is found, and what may be called next."""
    click.echo()
    click.echo(f"Quanyu is ready:  {click.style(f'{run.gateway}/graphql', bold=True)}")
    for name, address in run.addresses().items():
        if name != "gateway":
            click.echo(f"  gRPC {name:<13} {address}")
    click.echo("In a second terminal:")
    called = "quanyu" if shutil.which("quanyu") else os.path.relpath(sys.argv[0])
    data = "" if folder.path == DATA else f" --data {folder.path}"
    commands = {f"{called} {command}{data}": about for command, about in NEXT.items() if demo or command != "story"}
    for command, about in commands.items():
        click.echo(f"  {command:<{max(map(len, commands))}}  {about}")
    click.echo("Ctrl-C ends everything.")
    click.echo()
