"""`quanyu facts`: what waits between the services, what is parked and why, and sending it again."""

import asyncio
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from quanyu.facts.v1 import facts_pb2, facts_pb2_grpc
from services.local import client
from services.local.folder import Folder
from services.local.keys import SERVICES
from services.local.options import data_option


@click.command()
@click.option("--replay", is_flag=True, help="Send all parked facts again.")
@data_option
def facts(folder: Folder, replay: bool) -> None:
    """Shows how many facts wait for each listener and which are parked; exit status 1 while any is parked."""
    parked = asyncio.run(_show(folder, replay, Console()))
    raise SystemExit(1 if parked else 0)


async def _show(folder: Folder, replay: bool, console: Console) -> int:
    waiting = Table("from", "to", "waiting", "parked", title="facts between services")
    reasons = Table("id", "kind", "key", "tries", "why", title="parked")
    async with client.channels(folder) as channels:
        for name in SERVICES:
            stub: Any = facts_pb2_grpc.FactOutboxServiceStub(channels[name])
            if replay:
                replayed = (await stub.ReplayParkedFacts(facts_pb2.ReplayParkedFactsRequest())).replayed
                if replayed:
                    console.print(f"{name}: {replayed} sent again")
            for each in (await stub.GetBacklog(facts_pb2.GetBacklogRequest())).backlogs:
                waiting.add_row(name, each.listener, f"{each.waiting:,}", f"[red]{each.parked:,}[/]" if each.parked else "0")
            for fact in (await stub.ListParkedFacts(facts_pb2.ListParkedFactsRequest())).facts:
                reasons.add_row(fact.id, fact.kind, fact.key, str(fact.attempts), fact.reason)
    console.print(waiting if waiting.row_count else "nothing waits between the services")
    if reasons.row_count:
        console.print(reasons)
        console.print("put right what is wrong, then: quanyu facts --replay")
    return reasons.row_count
