"""`quanyu events`: the command that shows waiting and parked events, and replays parked ones."""

import asyncio
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from quanyu.events.v1 import events_pb2, events_pb2_grpc
from services.local import client
from services.local.folder import Folder
from services.local.keys import SERVICES
from services.local.options import data_option


@click.command()
@click.option("--replay", is_flag=True, help="Deliver all parked events again.")
@data_option
def events(folder: Folder, replay: bool) -> None:
    """Shows how many events wait for each subscriber, and which are parked and why. The exit status is 1 while an event is parked."""
    parked = asyncio.run(_show(folder, replay, Console()))
    raise SystemExit(1 if parked else 0)


async def _show(folder: Folder, replay: bool, console: Console) -> int:
    waiting = Table("from", "to", "waiting", "parked", title="events between services")
    reasons = Table("id", "kind", "key", "attempts", "reason", title="parked")
    async with client.open_channels(folder) as channels:
        for name in SERVICES:
            stub: Any = events_pb2_grpc.EventOutboxServiceStub(channels[name])
            if replay:
                replayed = (await stub.ReplayParkedEvents(events_pb2.ReplayParkedEventsRequest())).replayed
                if replayed:
                    console.print(f"{name}: {replayed} delivered again")
            for each in (await stub.GetBacklog(events_pb2.GetBacklogRequest())).backlogs:
                waiting.add_row(name, each.subscriber, f"{each.waiting:,}", f"[red]{each.parked:,}[/]" if each.parked else "0")
            for event in (await stub.ListParkedEvents(events_pb2.ListParkedEventsRequest())).events:
                reasons.add_row(event.id, event.kind, event.key, str(event.attempts), event.reason)
    console.print(waiting if waiting.row_count else "No event waits.")
    if reasons.row_count:
        console.print(reasons)
        console.print("Correct the cause, then run: quanyu events --replay")
    return reasons.row_count
