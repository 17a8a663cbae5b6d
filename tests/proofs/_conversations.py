"""Random mutations of valid WebSocket conversations: their messages, bytes, frames and handshakes."""

import asyncio
import json
import random
import struct
from collections.abc import Callable
from typing import Any

from msgspec import Struct, field

from tests.gateway.live_gateway import PROTOCOL
from tests.proofs._mutations import HOSTILE, FuzzRequest, mutate_request

QUIET_SECONDS = 0.2
"""A server that sends nothing for this time has sent all its messages; subscriptions stay open."""
MESSAGES_MAX = 8
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
KINDS: tuple[Any, ...] = ("connection_init", "subscribe", "complete", "ping", "pong", "next", "connection_ack", "", None, 7)
INTERNAL_ERRORS = frozenset({1011, 4500})
"""No message of a client may cause these close codes."""
HANDSHAKES = (
    {"sec-websocket-protocol": "graphql-ws"}, {"sec-websocket-protocol": ""}, {"sec-websocket-protocol": "," * 99},
    {"sec-websocket-version": "8"}, {"sec-websocket-key": "x"}, {"sec-websocket-key": ""},
    {"sec-websocket-extensions": "permessage-deflate; x=y"},
    {"origin": "https://elsewhere.example"}, {"origin": "null"}, {"origin": "http://["}, {"upgrade": "h2c"}, {"connection": "close"},
    {"content-length": "5"}, {"transfer-encoding": "chunked"}, {"host": "é"}, {"x-forwarded-for": "::1, x"}, {"cookie": "a=" + "b" * 5_000},
)  # fmt: skip


class Transcript(Struct):
    """The messages that a client received, with the status of its handshake, the close code (0: none) and its reason. `left`: the client
    closed first. `reset`: the connection was reset."""

    status: int = 0
    head: str = ""
    texts: list[str] = field(default_factory=list)
    code: int = 0
    reason: str = ""
    ended: bool = False
    left: bool = False
    reset: bool = False


def create_conversation(requests: list[FuzzRequest], rng: random.Random) -> tuple[str, list[bytes]]:
    """Returns the name of the mutation and the bytes to send: the handshake, then frames."""
    request = rng.choice(requests)
    messages = [_init(request.token)]
    for number in range(rng.randint(1, MESSAGES_MAX)):
        messages.append(_subscribe(str(number % 5), request if rng.random() < 0.3 else mutate_request(request, requests, rng)[1]))
        if rng.random() < 0.3:
            messages.append({"type": "complete", "id": str(number % 5)})
    name = rng.choice(list(CHANGES))
    return name, CHANGES[name](messages, rng)


def _init(token: str) -> dict[str, Any]:
    return {"type": "connection_init", "payload": {"authorization": f"Bearer {token}"} if token else {}}


def _subscribe(id: str, request: FuzzRequest) -> dict[str, Any]:
    return {"type": "subscribe", "id": id, "payload": request.body}


def _messages(messages: list[Any], rng: random.Random) -> list[bytes]:
    """Removes, doubles or replaces messages, or a part of one."""
    for _ in range(rng.choice([1, 1, 3])):
        at = rng.randrange(len(messages))
        if not isinstance(messages[at], dict) or rng.random() < 0.4:
            messages[at : at + 1] = rng.choice([[], [messages[at]] * 2, [messages[at]] * 30, [rng.choice(messages)], [rng.choice(HOSTILE)]])
            messages = messages or [{"type": "ping"}]
        else:
            messages[at] = messages[at] | {rng.choice(["type", "id", "payload", "more"]): rng.choice(HOSTILE + KINDS)}
    return [encode_handshake(), *(encode_frame(_encode(message)) for message in messages)]


def _bytes(messages: list[Any], rng: random.Random) -> list[bytes]:
    """Changes some bytes of messages."""
    frames = []
    for message in messages:
        text = bytearray(_encode(message))
        if rng.random() < 0.3:
            at = rng.randrange(len(text) + 1)
            text[at : at + rng.randrange(3)] = rng.choice(
                [b"\xff", b"\x00", b'"', b"{", b"[" * 9_000, b"\\ud800", b"1e999", rng.randbytes(4)]
            )
        frames.append(encode_frame(bytes(text)))
    return [encode_handshake(), *frames]


def _frames(messages: list[Any], rng: random.Random) -> list[bytes]:
    """Changes the frames of messages."""
    frames = [encode_frame(_encode(message)) for message in messages]
    for _ in range(rng.choice([1, 1, 3])):
        at, text = rng.randrange(len(frames)), _encode(rng.choice(messages))
        frames[at : at + 1] = rng.choice(
            [
                [encode_frame(text[:9], final=False), encode_frame(text[9:], 0)],
                [
                    encode_frame(text[:9], final=False),
                    encode_frame(b"x", PING),
                    encode_frame(b"", 0, final=False),
                    encode_frame(text[9:], 0),
                ],
                [encode_frame(text[:9], final=False), encode_frame(text)],
                [encode_frame(text, 0)],
                [encode_frame(text, rng.choice([BINARY, 3, 7, 11, 15]))],
                [encode_frame(text, rsv=rng.randint(1, 7))],
                [encode_frame(text, masked=False)],
                [encode_frame(b"x" * rng.choice([0, 125, 126]), rng.choice([PING, PONG]), final=rng.random() < 0.9)] * 50,
                [
                    encode_frame(
                        rng.choice(
                            [b"", b"\x03", b"\x03\xe8", b"\x00\x00", b"\x03\xed", b"\x03\xe9", b"\x13\x88\xff", b"\xff\xff" + b"x" * 200]
                        ),
                        CLOSE,
                    )
                ],
                [encode_frame(b"x" * 300_000)],
                [bytes([0x81, 0xFF]) + struct.pack(">Q", rng.choice([2**63, 2**62, 300_000, 0])) + bytes(4)],
                [bytes([0x81, 0xFE, 0, 5]) + bytes(4) + b"12345"],
                [frames[at][: rng.randrange(len(frames[at]))]],
                [rng.randbytes(rng.randrange(200))],
            ]
        )
    return [encode_handshake(), *frames]


def _handshakes(messages: list[Any], rng: random.Random) -> list[bytes]:
    """Changes the handshake."""
    opening = encode_handshake(rng.choice(HANDSHAKES))
    if rng.random() < 0.2:
        at = rng.randrange(len(opening))
        opening = opening[:at] + rng.choice([b"", b"\x00", b"\xff", b"\r\n", b":", b" "]) + opening[at + 1 :]
    return [opening, *(encode_frame(_encode(message)) for message in messages)]


CHANGES: dict[str, Callable[[list[Any], random.Random], list[bytes]]] = {
    "messages": _messages,
    "message bytes": _bytes,
    "frames": _frames,
    "handshakes": _handshakes,
}


def _encode(message: Any) -> bytes:
    return json.dumps(message).encode()


def encode_handshake(changes: dict[str, str] | None = None) -> bytes:
    """Returns the request for a WebSocket."""
    headers = {"host": "x", "connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    headers |= {"sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==", "sec-websocket-protocol": PROTOCOL} | (changes or {})
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"GET /graphql HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


def encode_frame(data: bytes, opcode: int = TEXT, *, final: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """Returns a frame of a client, with a mask of zeros."""
    mask = 0x80 if masked else 0
    first = bytes([(0x80 if final else 0) | rsv << 4 | opcode])
    if len(data) < 126:
        length = bytes([mask | len(data)])
    elif len(data) < 2**16:
        length = bytes([mask | 126]) + struct.pack(">H", len(data))
    else:
        length = bytes([mask | 127]) + struct.pack(">Q", len(data))
    return first + length + (bytes(4) if masked else b"") + data


async def converse(address: str, parts: list[bytes]) -> Transcript:
    """Sends all parts, reads until the server is silent, then closes in order. Returns all that was received."""
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**24)
    transcript = Transcript()
    try:
        writer.write(parts[0])
        transcript.head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        transcript.status = int(transcript.head.split()[1])
        if transcript.status == 101:
            for part in parts[1:]:
                writer.write(part)
            await _read_frames(reader, transcript, QUIET_SECONDS)
            if not transcript.ended:
                writer.write(encode_frame(struct.pack(">H", 1000), CLOSE))
        if not transcript.ended:
            transcript.left = True
            writer.write_eof()
        await _read_frames(reader, transcript, None)
    except (OSError, asyncio.IncompleteReadError):
        transcript.reset = True
    finally:
        writer.close()
    return transcript


async def _read_frames(reader: asyncio.StreamReader, transcript: Transcript, seconds: float | None) -> None:
    """Reads until the end of the connection, or until the server is silent for this time."""
    while True:
        try:
            async with asyncio.timeout(seconds):
                part = await reader.read(1) if transcript.status == 101 else await reader.read()
        except TimeoutError:
            return
        if transcript.status != 101 or not part:
            transcript.head += part.decode("latin-1")
            transcript.ended = True
            return
        opcode, length = part[0] & 15, (await reader.readexactly(1))[0]
        if length > 125:
            length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8))
        data = await reader.readexactly(length)
        if opcode == TEXT:
            transcript.texts.append(data.decode())
        elif opcode == CLOSE:
            transcript.code, transcript.reason = int.from_bytes(data[:2]) or 1005, data[2:].decode()
