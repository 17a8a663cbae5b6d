"""Process of the gateway: its start, its exit status and line for an invalid setting, and its stop by a signal."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from services.local.keys import Keys
from services.local.mongod import free_port
from tests.gateway.http.test_client_disconnect import MUTATION
from tests.gateway.silent_services import serve_silent

ROOT = Path(__file__).parents[2]
SECONDS_MAX = 20.0
PROTOCOL = Subprotocol("graphql-transport-ws")


def environment(keys: Keys, **settings: str) -> dict[str, str]:
    own = {"QUANYU_SIGNING_KEY": keys.signing_setting("gateway"), "QUANYU_TOKEN_KEYS": keys.tokens_setting(), "QUANYU_DRAIN_SECONDS": "1"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("QUANYU_")}
    return inherited | own | {f"QUANYU_{name.upper()}": value for name, value in settings.items()}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"gateway_listen": "nowhere"}, "QUANYU_GATEWAY_LISTEN"),
        ({"colour": "red"}, "Unknown setting QUANYU_COLOUR"),
        ({"signing_key": ""}, "QUANYU_SIGNING_KEY is empty"),
        ({"token_keys": "[]"}, "QUANYU_TOKEN_KEYS"),
        ({"oidc_issuers": "[{}]"}, "QUANYU_OIDC_ISSUERS"),
        ({"env": "production"}, "QUANYU_TOKEN_KEYS"),
        ({"gateway_listen": "127.0.0.1:99999"}, "cannot listen"),
        ({"trusted_proxies": "127.0.0.1, 10.1.0.0/8"}, "QUANYU_TRUSTED_PROXIES: '10.1.0.0/8'"),
    ],
)
def test_invalid_setting_exits_with_status_2(keys: Keys, settings: dict[str, str], reason: str) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "gateway"], cwd=ROOT, env=environment(keys, **settings), capture_output=True, text=True, timeout=SECONDS_MAX
    )
    assert completed.returncode == 2
    (line,) = completed.stderr.splitlines()
    assert line.startswith("gateway cannot start: ")
    assert reason in line


def test_port_in_use_exits_with_status_2(keys: Keys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = {"gateway_listen": f"127.0.0.1:{taken.getsockname()[1]}"}
        test_invalid_setting_exits_with_status_2(keys, settings, "cannot listen")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_process_answers_and_stops_on_signal(keys: Keys, number: signal.Signals) -> None:
    port, metrics = free_port(), free_port()
    own = environment(keys, gateway_listen=f"127.0.0.1:{port}", metrics_listen=f"127.0.0.1:{metrics}")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "gateway", cwd=ROOT, env=own, **pipes)
    assert process.stdout is not None
    async with asyncio.timeout(SECONDS_MAX):
        assert b"ready" in await process.stdout.readline()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            assert (await http.get("/health")).status_code == 200
            assert (await http.post("/graphql", json={"query": "{ __typename }"})).json() == {"data": {"__typename": "Query"}}
            sample = 'quanyu_graphql_seconds_count{operation="query",status="200"} 1.0'
            while sample not in (await http.get(f"http://127.0.0.1:{metrics}/metrics")).text:  # noqa: ASYNC110 - the log is written in batches
                await asyncio.sleep(0.01)
            async with connect(f"ws://127.0.0.1:{port}/graphql", subprotocols=[PROTOCOL], proxy=None) as socket:
                await socket.send('{"type": "connection_init"}')
                assert await socket.recv() == '{"type":"connection_ack"}'
                last = (await http.post("/graphql", json={"query": "{"})).json()["errors"][0]["extensions"]["id"]
                process.send_signal(number)
                await socket.wait_closed()
                assert socket.close_code == 1001
        lines, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    logged = [line for line in map(json.loads, lines.splitlines()) if line["event"] == "operation"]
    assert [(line["operation"], line["status"]) for line in logged] == [("query", 200), ("invalid", 200)]
    assert logged[-1]["id"] == last, "the last operation is logged too"


async def test_stopping_process_waits_for_socket_mutations(keys: Keys) -> None:
    """Its client could not know whether it was executed."""
    port = free_port()
    async with serve_silent() as (silent, address), asyncio.timeout(SECONDS_MAX):
        own = environment(keys, gateway_listen=f"127.0.0.1:{port}", commerce_address=address)
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "gateway", cwd=ROOT, env=own, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert b"ready" in await process.stdout.readline()
        async with connect(f"ws://127.0.0.1:{port}/graphql", subprotocols=[PROTOCOL], proxy=None) as socket:
            await socket.send('{"type": "connection_init"}')
            await socket.recv()
            await socket.send(json.dumps({"type": "subscribe", "id": "1", "payload": {"query": MUTATION}}))
            assert await silent.called.get() == "CancelOrder"
            process.send_signal(signal.SIGTERM)
            await socket.wait_closed()
        cancelled, ended = asyncio.create_task(silent.cancelled.get()), asyncio.create_task(process.wait())
        assert not (await asyncio.wait({cancelled, ended}, timeout=0.5))[0]
        silent.released.set()
        assert await silent.completed.get() == "CancelOrder"
        assert await ended == 0
        cancelled.cancel()
