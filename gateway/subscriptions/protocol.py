"""The messages of graphql-transport-ws (https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md)."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

SUBPROTOCOL = "graphql-transport-ws"
ID_LENGTH_MAX = 128

Id = Annotated[str, Meta(min_length=1, max_length=ID_LENGTH_MAX)]


class ConnectionInit(Struct, frozen=True, tag="connection_init"):
    """The first message of a client; the payload may carry its `authorization`."""

    payload: dict[str, Any] | None = None


class Ping(Struct, frozen=True, tag="ping"):
    """Asks for a pong."""

    payload: dict[str, Any] | None = None


class Pong(Struct, frozen=True, tag="pong"):
    """Answers a ping, or just shows that the client is there."""

    payload: dict[str, Any] | None = None


class Subscribe(Struct, frozen=True, tag="subscribe"):
    """Asks for an operation of any kind."""

    id: Id
    payload: dict[str, Any]


class Complete(Struct, frozen=True, tag="complete"):
    """Ends an operation."""

    id: Id


Received = ConnectionInit | Ping | Pong | Subscribe | Complete

_decoder: msgspec.json.Decoder[Received] = msgspec.json.Decoder(Received)


class Closed(Exception):
    """The connection is closed with this code, for this reason."""

    def __init__(self, code: int, reason: str) -> None:
        self.code, self.reason = code, reason
        super().__init__(reason)


def received(text: str | None) -> Received:
    """A message of the client; `Closed` (4400) for what is none."""
    if text is None:
        raise Closed(4400, "messages are text")
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        raise Closed(4400, "invalid message") from None


ACKNOWLEDGED = '{"type":"connection_ack"}'


def pong(payload: dict[str, Any] | None) -> str:
    """Answers a ping."""
    return _encoded({"type": "pong"} | ({"payload": payload} if payload is not None else {}))


def next_(id: str, body: bytes) -> str:
    """An answer of an operation."""
    return _encoded({"id": id, "type": "next", "payload": msgspec.Raw(body)})


def error(id: str, found: Any) -> str:
    """Ends an operation with errors."""
    return _encoded({"id": id, "type": "error", "payload": found})


def complete(id: str) -> str:
    """Ends an operation."""
    return _encoded({"id": id, "type": "complete"})


def _encoded(message: dict[str, Any]) -> str:
    return msgspec.json.encode(message).decode()
