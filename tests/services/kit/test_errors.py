"""Tests of refusals over gRPC: each one arrives unchanged; an unknown exception leaks no text."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import grpc
import pytest

from quanyu.events.v1 import events_pb2, events_pb2_grpc
from services.kit import errors
from services.kit.mongo.client import Database
from services.kit.projections.scopes import ScopeProjection
from services.kit.rpc.channel import open_channel
from services.kit.rpc.server import Server
from services.kit.rpc.streams import StreamBounds
from services.kit.security.authorization import Authorizer
from services.kit.security.principals import INSTALLATION, SERVICE, Grant, Principal, Signer, Verifier
from services.local.keys import Keys, new_keys

LEAK = "the password is 123456"


class FailingInbox(events_pb2_grpc.EventInboxServiceServicer):
    """An inbox whose only rpc raises one exception."""

    def __init__(self, exception: Exception) -> None:
        self.exception = exception

    async def Deliver(self, request: events_pb2.DeliverRequest, context: object) -> events_pb2.DeliverResponse:
        raise self.exception


@asynccontextmanager
async def stub_of(exception: Exception, database: Database, keys: Keys) -> AsyncIterator["events_pb2_grpc.EventInboxServiceAsyncStub"]:
    """Yields a client of a real server whose only rpc raises `exception`."""
    authorizer = Authorizer(Verifier("here", keys.issuers_setting(), development=True), ScopeProjection(database))
    server = Server(
        [(events_pb2_grpc.add_EventInboxServiceServicer_to_server, FailingInbox(exception))],
        authorizer,
        drain_seconds=1,
        bounds=StreamBounds(1, 1, 1.0),
    )
    port = await server.start("127.0.0.1:0")
    signer = Signer("member", keys.signing_setting("member"))
    principal = Principal("service:member", (Grant(SERVICE, INSTALLATION),))
    async with open_channel(f"127.0.0.1:{port}", lambda: signer.sign("here", principal), 5.0) as channel:
        yield events_pb2_grpc.EventInboxServiceStub(channel)
    await server.stop()


@pytest.mark.parametrize("kind", errors.FAMILY, ids=lambda kind: kind.__name__)
async def test_refusal_arrives_unchanged(kind: type[errors.Refusal], database: Database) -> None:
    refusal = kind("INVALID_BATCH", "预算用完了", retry_after=timedelta(seconds=1.5), budget_id="bdg_1", left=0)
    async with stub_of(refusal, database, new_keys()) as stub:
        with pytest.raises(errors.Refusal) as caught:
            await stub.Deliver(events_pb2.DeliverRequest(source="member"))
    assert type(caught.value) is kind
    assert caught.value.reason == "INVALID_BATCH"
    assert caught.value.message == "预算用完了"
    assert caught.value.metadata == {"budget_id": "bdg_1", "left": "0"}
    assert caught.value.retry_after == timedelta(seconds=1.5)


async def test_unknown_exception_leaks_no_text(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    async with stub_of(RuntimeError(LEAK), database, new_keys()) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Deliver(events_pb2.DeliverRequest(source="member"))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert LEAK not in str(caught.value)
    bug = (caught.value.details() or "").removeprefix("Internal error ").partition(".")[0]
    assert bug.startswith("bug_") and bug in capsys.readouterr().out


async def test_unreachable_server_is_unavailable() -> None:
    keys = new_keys()
    signer = Signer("member", keys.signing_setting("member"))
    async with open_channel("127.0.0.1:1", lambda: signer.sign("here", Principal("x")), 2.0) as channel:
        with pytest.raises(errors.Unavailable):
            await events_pb2_grpc.EventInboxServiceStub(channel).Deliver(events_pb2.DeliverRequest())
