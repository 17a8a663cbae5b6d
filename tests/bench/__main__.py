"""Benchmarks: `python -m tests.bench [NAME …]`. Each table carries the floor it is held against, measured in the same run.

A bench is a module of this package with `async def run(uri: str)` that answers a table, or several in a `rich.console.Group`.
"""

import asyncio
import importlib
import pkgutil
import sys

from rich.console import Console

from tests import bench, proofs


async def main(names: list[str]) -> None:
    console = Console()
    known = [module.name for module in pkgutil.iter_modules(bench.__path__) if not (module.ispkg or module.name.startswith("_"))]
    if unknown := set(names) - set(known):
        sys.exit(f"no bench {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    with proofs.mongod() as uri:
        for name in names or known:
            console.print(await importlib.import_module(f"tests.bench.{name}").run(uri))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
