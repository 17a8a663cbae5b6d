"""Audits of GraphQL over HTTP by `graphql-http`, against a gateway process."""

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
"""The number of audits of `graphql-http`, of all levels: MUST, SHOULD and MAY."""


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """The URL of a gateway without services, since the audits query only `__typename`."""
    port = free_port()
    own = environment(new_keys(), gateway_listen=f"127.0.0.1:{port}")
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "gateway", cwd=ROOT, env=own, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(SECONDS_MAX):
        assert b"ready" in await process.stdout.readline()
    yield f"http://127.0.0.1:{port}/graphql"
    process.terminate()
    await process.communicate()


async def test_gateway_passes_all_audits_of_graphql_http(node: str, url: str) -> None:
    audited = await asyncio.to_thread(run, node, "http.mjs", url)
    assert audited.returncode == 0, audited.stderr
    audits = [json.loads(line) for line in audited.stdout.splitlines()]
    assert [audit for audit in audits if audit["status"] != "ok"] == []
    assert len(audits) == AUDITS
