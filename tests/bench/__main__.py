"""Benchmarks: `python -m tests.bench [NAME …]`. Each table has the floor of its measurement, from the same run.

A bench is a module of this package with `async def run(uri: str)` that returns a table, or several in a `rich.console.Group`.
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
        sys.exit(f"Unknown bench: {', '.join(sorted(unknown))}. Choose from {', '.join(known)}.")
    with proofs.mongod() as uri:
        for name in names or known:
            console.print(await importlib.import_module(f"tests.bench.{name}").run(uri))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
