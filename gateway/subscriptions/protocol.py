"""Messages and close codes of graphql-transport-ws (https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md)."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

SUBPROTOCOL = "graphql-transport-ws"
ID_LENGTH_MAX = 128
"""The id of an operation may have this many characters."""
REASON_BYTES_MAX = 123
"""The reason of a close frame may have this many bytes (RFC 6455)."""

GOING_AWAY, POLICY_VIOLATION, TRY_AGAIN_LATER = 1001, 1008, 1013
BAD_REQUEST, UNAUTHORIZED, FORBIDDEN, SUBPROTOCOL_NOT_ACCEPTABLE = 4400, 4401, 4403, 4406
INITIALISATION_TIMEOUT, SUBSCRIBER_EXISTS, TOO_MANY_INITIALISATIONS, INTERNAL_ERROR = 4408, 4409, 4429, 4500

Id = Annotated[str, Meta(min_length=1, max_length=ID_LENGTH_MAX)]


class ConnectionInit(Struct, frozen=True, tag="connection_init"):
    """The first message of a client; the payload may carry its `authorization`."""

    payload: dict[str, Any] | None = None


class Ping(Struct, frozen=True, tag="ping"):
    """Requests a pong."""

    payload: dict[str, Any] | None = None


class Pong(Struct, frozen=True, tag="pong"):
    """Answers a ping, or is a heartbeat."""

    payload: dict[str, Any] | None = None


class Subscribe(Struct, frozen=True, tag="subscribe"):
    """Starts an operation of any kind."""

    id: Id
    payload: dict[str, Any]


class Complete(Struct, frozen=True, tag="complete"):
    """Ends an operation."""

    id: Id


ClientMessage = ConnectionInit | Ping | Pong | Subscribe | Complete

_decoder: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(ClientMessage)


class ConnectionClosed(Exception):
    """Closes the connection with this code and reason. Reasons of codes above 4400 are those of the protocol, if it has one."""

    def __init__(self, code: int, reason: str) -> None:
        self.code, self.reason = code, reason
        super().__init__(reason)


def parse_message(text: str | None) -> ClientMessage:
    """Parses a message of a client; None stands for a binary message. Raises `ConnectionClosed` (4400) for an invalid one."""
    if text is None:
        raise ConnectionClosed(BAD_REQUEST, "A message must be text. Send JSON.")
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        raise ConnectionClosed(BAD_REQUEST, f"Invalid message. Send a message of {SUBPROTOCOL}.") from None


CONNECTION_ACK = '{"type":"connection_ack"}'


def encode_pong(payload: dict[str, Any] | None) -> str:
    """Returns the message that answers a ping."""
    return _encode({"type": "pong"} | ({"payload": payload} if payload is not None else {}))


def encode_next(id: str, body: bytes) -> str:
    """Returns the message with a result of an operation."""
    return _encode({"id": id, "type": "next", "payload": msgspec.Raw(body)})


def encode_error(id: str, errors: Any) -> str:
    """Returns the message that ends an operation with errors."""
    return _encode({"id": id, "type": "error", "payload": errors})


def encode_complete(id: str) -> str:
    """Returns the message that ends an operation."""
    return _encode({"id": id, "type": "complete"})


def _encode(message: dict[str, Any]) -> str:
    return msgspec.json.encode(message).decode()
