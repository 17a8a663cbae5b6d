"""The gateway as the bench starts it: as it is, or with graphql-core running every operation.

python -m tests.bench.peers.gateway engine|core     with the gateway's settings in the environment; prints its address
"""

import os
import sys
from typing import Any

import uvloop

from gateway.__main__ import Server, create_config, listen
from gateway.app import build
from gateway.engine.collect_fields import Uncompiled
from services.kit.observability import logs
from services.kit.settings import load


def _uncompiled(*_: Any) -> Uncompiled:
    """The engine's answer to what it does not compile."""
    return Uncompiled("bench")


def main(way: str) -> None:
    """Answers until it is ended."""
    settings = load(os.environ)
    logs.configure(settings, "gateway")
    app = build(settings)
    if way == "core":
        app.state.executor.engine.create_run = _uncompiled
    with listen("127.0.0.1:0") as listening:
        app.state.address = "{}:{}".format(*listening.getsockname()[:2])
        sys.stderr.write(f"{app.state.address}\n")
        sys.stderr.flush()
        uvloop.run(Server(create_config(app, settings)).serve([listening]))


if __name__ == "__main__":
    main(sys.argv[1])
