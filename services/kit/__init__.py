"""Mechanisms that all processes share. Nothing in this package depends on a scenario."""

import os

from services.kit._compat import patch_wait_for

patch_wait_for()
# Without its event engine, which passes messages between threads, gRPC takes a quarter less CPU for an rpc on either side. A version of
# gRPC that has only the event engine logs a warning and continues. An operator may set another value.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
