"""Mercurius with jit and Hive Gateway before our services, where Node and npm are on PATH."""

import asyncio
import shutil
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc_tools
import psutil

from services.local.mongod import free_port
from tests.bench.peers.peer import HERE, Peer, started
from tests.node import installed

PROGRAMS = HERE / "node_modules" / ".bin"
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"
START_SECONDS_MAX = 60


def found() -> bool:
    """Whether they can be started."""
    return bool(shutil.which("node") and shutil.which("npm"))


@asynccontextmanager
async def peers(services: str) -> AsyncIterator[dict[str, Peer]]:
    """Both, or none of them."""
    if not found():
        yield {}
        return
    node = await asyncio.to_thread(installed, HERE)
    async with AsyncExitStack() as stack:
        mercurius = await stack.enter_async_context(started(node, str(HERE / "mercurius.mjs"), services))
        yield {"mercurius": Peer(*mercurius, "ours"), "hive": await stack.enter_async_context(_hive(services))}


@asynccontextmanager
async def _hive(services: str) -> AsyncIterator[Peer]:
    """Hive Gateway over a supergraph that GraphQL Mesh composes from the protos."""
    with tempfile.TemporaryDirectory() as folder:
        supergraph = f"{folder}/supergraph.graphql"
        await _composed(supergraph, services)
        port = free_port()
        command = (str(PROGRAMS / "hive-gateway"), "supergraph", supergraph, "--port", str(port), "--host", "127.0.0.1")
        process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=PIPE, stderr=DEVNULL)
        try:
            await asyncio.wait_for(_listening(process), START_SECONDS_MAX)
            yield Peer(process, f"127.0.0.1:{port}", "hive")
        finally:
            if process.returncode is None:
                for each in (*psutil.Process(process.pid).children(recursive=True), process):
                    each.kill()
            await process.wait()


async def _composed(supergraph: str, services: str) -> None:
    env = {"SERVICES": services, "WELL_KNOWN": str(WELL_KNOWN), "PATH": "/usr/bin:/bin"}
    command = (str(PROGRAMS / "mesh-compose"), "-c", "mesh.config.mjs", "-o", supergraph)
    composing = await asyncio.create_subprocess_exec(*command, cwd=HERE, env=env, stdout=PIPE, stderr=PIPE)
    said, _ = await composing.communicate()
    if composing.returncode:
        raise RuntimeError(f"GraphQL Mesh composes nothing: {said.decode()[-500:]}")


async def _listening(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        if b"Listening on" in line:
            return
    raise RuntimeError("Hive Gateway ended before it listened")
