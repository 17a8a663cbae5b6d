"""`quanyu up`: the command that runs the suite in the foreground until Ctrl-C."""

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
from services.local.folder import Folder, Run, RunningProcess
from services.local.installation import read_installation_id
from services.local.keys import keys_of
from services.local.mongod import Mongod, check_server
from services.local.options import DATA, data_option
from services.local.suite import assign_ports, base_url, build_stages
from services.local.supervisor import Supervisor

NEXT_COMMANDS = {
    "story": "play the story in the demo world",
    "status": "show what runs and is ready",
    "token --operator": "print a bearer token for GraphQL",
}
"""Commands to try while the suite runs, with what they do."""


@click.command()
@data_option
@click.option("--mongo", metavar="URI", help="The MongoDB replica set to use. Default: QUANYU_MONGO_URI, else a mongod started here.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port of the gateway; 0 chooses a free one.  [default: 8000]")
@click.option("--demo", is_flag=True, help="Load the demo world, or renew what has expired in it.")
def up(folder: Folder, mongo: str | None, port: int | None, demo: bool) -> None:
    """Starts MongoDB, the four services and the gateway, and runs until Ctrl-C.

    The QUANYU_* settings of the environment apply to every process.
    """
    environ = dict(os.environ) | ({"QUANYU_MONGO_URI": mongo} if mongo else {})
    settings = assign_ports(kit_settings.load(environ), port)
    with folder.claim(), database(folder, environ.get("QUANYU_MONGO_URI")) as (uri, mongod):
        settings = msgspec.structs.replace(settings, mongo_uri=uri)
        installation = read_installation_id(uri, settings.database_prefix)
        supervisor = Supervisor(
            build_stages(settings, keys_of(folder)), drain_seconds=settings.drain_seconds, mongod_alive=mongod.alive if mongod else None
        )

        async def ready(processes: Sequence[RunningProcess]) -> None:
            run = Run(os.getpid(), base_url(settings), uri, settings.database_prefix, list(processes), installation)
            folder.write(folder.run, run)
            if demo:
                click.echo(await load(folder, Console()))
            announce(run, folder, demo=demo)

        asyncio.run(supervisor.run(ready))
    click.echo("All processes have ended.")


@contextmanager
def database(folder: Folder, given: str | None) -> Iterator[tuple[str, Mongod | None]]:
    """Yields the URI of MongoDB: the given one, else that of a server which runs during the block."""
    if given:
        check_server(given)
        yield given, None
        return
    with Mongod(folder.mongo) as mongod:
        check_server(mongod.uri)
        click.echo(f"MongoDB is ready at {mongod.uri} (its log: {mongod.log})")
        yield mongod.uri, mongod


def announce(run: Run, folder: Folder, *, demo: bool) -> None:
    """Prints the addresses and the commands to try next."""
    click.echo()
    click.echo(f"Quanyu is ready:  {click.style(f'{run.gateway}/graphql', bold=True)}")
    for name, address in run.addresses().items():
        if name != "gateway":
            click.echo(f"  gRPC {name:<13} {address}")
    click.echo("In a second terminal:")
    program = "quanyu" if shutil.which("quanyu") else os.path.relpath(sys.argv[0])
    data = "" if folder.path == DATA else f" --data {folder.path}"
    commands = {f"{program} {command}{data}": about for command, about in NEXT_COMMANDS.items() if demo or command != "story"}
    for command, about in commands.items():
        click.echo(f"  {command:<{max(map(len, commands))}}  {about}")
    click.echo("Ctrl-C ends all processes.")
    click.echo()
