"""Mercurius with jit, and Hive Gateway, with the services of the bench. They need Node and npm."""

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
from tests.bench.peers.peer import HERE, Peer, run_process
from tests.node import install_packages

PROGRAMS = HERE / "node_modules" / ".bin"
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"
START_SECONDS_MAX = 60


def is_available() -> bool:
    """True if Node and npm are on PATH."""
    return bool(shutil.which("node") and shutil.which("npm"))


@asynccontextmanager
async def peers(services: str) -> AsyncIterator[dict[str, Peer]]:
    """Runs both peers during the block; none without Node."""
    if not is_available():
        yield {}
        return
    node = await asyncio.to_thread(install_packages, HERE)
    async with AsyncExitStack() as stack:
        mercurius = await stack.enter_async_context(run_process(node, str(HERE / "mercurius.mjs"), services))
        yield {"mercurius": Peer(*mercurius, "ours"), "hive": await stack.enter_async_context(_hive(services))}


@asynccontextmanager
async def _hive(services: str) -> AsyncIterator[Peer]:
    """Runs Hive Gateway with a supergraph that GraphQL Mesh composes from the protos."""
    with tempfile.TemporaryDirectory() as folder:
        supergraph = f"{folder}/supergraph.graphql"
        await _compose(supergraph, services)
        port = free_port()
        command = (str(PROGRAMS / "hive-gateway"), "supergraph", supergraph, "--port", str(port), "--host", "127.0.0.1")
        process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=PIPE, stderr=DEVNULL)
        try:
            await asyncio.wait_for(_wait_until_listening(process), START_SECONDS_MAX)
            yield Peer(process, f"127.0.0.1:{port}", "hive")
        finally:
            if process.returncode is None:
                for each in (*psutil.Process(process.pid).children(recursive=True), process):
                    each.kill()
            await process.wait()


async def _compose(supergraph: str, services: str) -> None:
    env = {"SERVICES": services, "WELL_KNOWN": str(WELL_KNOWN), "PATH": "/usr/bin:/bin"}
    command = (str(PROGRAMS / "mesh-compose"), "-c", "mesh.config.mjs", "-o", supergraph)
    process = await asyncio.create_subprocess_exec(*command, cwd=HERE, env=env, stdout=PIPE, stderr=PIPE)
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"GraphQL Mesh failed to compose the supergraph: {output.decode()[-500:]}")


async def _wait_until_listening(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        if b"Listening on" in line:
            return
    raise RuntimeError("Hive Gateway ended before it listened")
