"""Proofs at full size: `python -m tests.proofs [NAME …]`.

A proof is a module of this package with `async def run(uri: str) -> rich.table.Table`, which raises if the invariant is violated.
"""

import asyncio
import importlib
import pkgutil
import sys

from rich.console import Console

from tests import proofs


async def main(names: list[str]) -> None:
    console = Console()
    known = [module.name for module in pkgutil.iter_modules(proofs.__path__) if not module.name.startswith("_")]
    if unknown := set(names) - set(known):
        sys.exit(f"Unknown proof: {', '.join(sorted(unknown))}. Choose from {', '.join(known)}.")
    with proofs.mongod() as uri:
        for name in names or known:
            console.print(await importlib.import_module(f"tests.proofs.{name}").run(uri))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
