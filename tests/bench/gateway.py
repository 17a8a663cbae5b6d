"""Cost of the gateway: CPU milliseconds per request of its own process, in front of services that answer from memory.

The floor is the same three pages written by hand (`peers/floor.py`), with the same gRPC calls over the kit's channel, in the same run.
`plain` uses grpc.aio's own channel. The gateway does all its work: it verifies the token, counts the request, signs the principal and
writes its log line. With Node, mercurius with jit and Hive Gateway answer the same pages, without token, signature and log line.
"""

import re
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from graphql import parse, validate
from rich.console import Group
from rich.table import Table

from gateway.engine.engine import CompiledOperation
from gateway.graph import schema
from services.kit.runtime.runtime import SERVICES
from services.local.keys import new_keys
from services.local.token import bearer
from tests.bench import _real
from tests.bench.peers import others
from tests.bench.peers.peer import HERE, TITLES, VARIABLES, Peer, cost, module, run_process, send_requests
from tests.bench.peers.services import CONSUMER

ROUNDS, REQUESTS, WARM = 25, 100, 400
"""Many short rounds, each in another order, spread the load of the machine equally over all gateways."""
GOAL = 1.15
COLD_ROUNDS, COLD_GOAL_MS = 30, 3.0
IDS = re.compile(rb'"((?:ofr|var|ord|con)_[^"]+)"')


@asynccontextmanager
async def peers() -> AsyncIterator[dict[str, Peer]]:
    """Yields the floor, the gateway with both executors and, with Node, the other gateways, in front of the same services."""
    keys = new_keys()
    async with AsyncExitStack() as stack:
        _, services = await stack.enter_async_context(run_process(*module("services")))
        # An empty value keeps the own choice of gRPC.
        plain = await stack.enter_async_context(run_process(*module("floor", services, "plain"), env={"GRPC_EXPERIMENTS": ""}))
        found = {
            "floor": Peer(*await stack.enter_async_context(run_process(*module("floor", services, "kit")))),
            "floor, plain": Peer(*plain),
        }
        env = {f"QUANYU_{name.upper()}_ADDRESS": services for name in SERVICES}
        env |= {f"QUANYU_{name.upper()}": value for name, value in keys.settings_of("gateway").items()}
        env |= {f"QUANYU_RATE_{name}": "1000000" for name in ("PRINCIPAL", "TENANT", "ADDRESS")}
        for way in ("engine", "core"):
            process = await stack.enter_async_context(run_process(*module("gateway", way), env=env, output="stderr"))
            found[way] = Peer(*process, "ours", bearer(keys.tokens, CONSUMER))
        found |= await stack.enter_async_context(others.peers(services))
        yield found


async def run(uri: str) -> Group:
    return Group(await _measure_pages(), await _real.run(uri))


async def _measure_pages() -> Table:
    async with peers() as found:
        for page in VARIABLES:
            answers = {name: await send_requests(peer, page, WARM) for name, peer in found.items()}
            for name, answer in answers.items():
                assert b'"errors"' not in answer, (name, page, answer[:500])
                assert sorted(IDS.findall(answer)) == sorted(IDS.findall(answers["floor"])), f"{name} answers {page} with other objects"
            assert answers["floor"] == answers["engine"], f"the engine answers {page} differently"
        rounds = [{page: await _measure_round(found, page, number) for page in VARIABLES} for number in range(ROUNDS)]
    table = Table(title=f"gateway: CPU ms per request, medians of {ROUNDS} rounds (goal: engine at most {GOAL} of the floor)")
    table.add_column("page")
    for name in found:
        table.add_column(name, justify="right")
    for page, title in TITLES.items():
        costs = {name: statistics.median(each[page][name] for each in rounds) for name in found}
        ratio = {name: statistics.median(each[page][name] / each[page]["floor"] for each in rounds) for name in found}
        table.add_row(title, *(f"{costs[name]:.3f} ({ratio[name]:.2f}x)" for name in found))
    parsed, compiled = measure_cold_document()
    table.caption = (
        f"cold document of the 1,650 leaves: parse and validate {parsed:.2f} ms, compile {compiled:.2f} ms (goal: {COLD_GOAL_MS} in sum)"
        + ("" if others.is_available() else "; mercurius and Hive Gateway are not measured: they need Node")
    )
    return table


async def _measure_round(found: dict[str, Peer], page: str, number: int) -> dict[str, float]:
    """Returns the cost of a request of the page for each gateway."""
    names = [*found]
    turn = number % len(names)
    return {name: await cost(found[name], page, REQUESTS) for name in names[turn:] + names[:turn]}


def measure_cold_document() -> tuple[float, float]:
    """Returns the milliseconds to parse and validate the document of the page, and to compile it."""
    built = schema.build()
    document = (HERE / "ours" / "page.graphql").read_text()
    samples = []
    for _ in range(COLD_ROUNDS):
        start = time.process_time()
        parsed = parse(document)
        assert not validate(built._schema, parsed)
        middle = time.process_time()
        CompiledOperation(built, parsed, parsed.definitions[0], suggestions=False).plan({})  # type: ignore[arg-type]
        samples.append((middle - start, time.process_time() - middle))
    return statistics.median(each[0] for each in samples) * 1000, statistics.median(each[1] for each in samples) * 1000
