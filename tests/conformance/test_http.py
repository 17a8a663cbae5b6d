"""`graphql-http`'s audits of GraphQL over HTTP, against a gateway that runs as its own process."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import pytest

from services.local.keys import new_keys
from services.local.mongod import free_port
from tests.conformance.node import run
from tests.gateway.test_process import ROOT, environment

SECONDS_MAX = 30.0
AUDITS = 61
"""How many `graphql-http` has: of every level, MUST, SHOULD and MAY."""


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """Where a gateway answers. Its services do not: the audits ask for `__typename` only."""
    port = free_port()
    own = environment(new_keys(), gateway_listen=f"127.0.0.1:{port}")
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "gateway", cwd=ROOT, env=own, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(SECONDS_MAX):
        assert b"ready" in await process.stdout.readline()
    yield f"http://127.0.0.1:{port}/graphql"
    process.terminate()
    await process.communicate()


async def test_graphql_over_http_is_spoken_as_its_audits_have_it(node: str, url: str) -> None:
    audited = await asyncio.to_thread(run, node, "http.mjs", url)
    assert audited.returncode == 0, audited.stderr
    audits = [json.loads(line) for line in audited.stdout.splitlines()]
    assert [audit for audit in audits if audit["status"] != "ok"] == []
    assert len(audits) == AUDITS
