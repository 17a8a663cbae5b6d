"""Conversations made from good ones by chance: what is said over a WebSocket, the frames it is said in, and requests for event streams."""

import asyncio
import json
import random
import struct
from collections.abc import Callable
from typing import Any

from msgspec import Struct, field

from tests.gateway.serving import PROTOCOL
from tests.proofs._mutations import HOSTILE, Asked, mutated

QUIET_SECONDS = 0.2
"""Who says nothing for as long has said what there was to say; subscriptions go on."""
MESSAGES_MAX = 8
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
KINDS: tuple[Any, ...] = ("connection_init", "subscribe", "complete", "ping", "pong", "next", "connection_ack", "", None, 7)
BUGS = frozenset({1011, 4500})
"""Codes with which nobody is closed on, whatever they say."""
HANDSHAKES = (
    {"sec-websocket-protocol": "graphql-ws"}, {"sec-websocket-protocol": ""}, {"sec-websocket-protocol": "," * 99},
    {"sec-websocket-version": "8"}, {"sec-websocket-key": "x"}, {"sec-websocket-key": ""},
    {"sec-websocket-extensions": "permessage-deflate; x=y"},
    {"origin": "https://elsewhere.example"}, {"origin": "null"}, {"origin": "http://["}, {"upgrade": "h2c"}, {"connection": "close"},
    {"content-length": "5"}, {"transfer-encoding": "chunked"}, {"host": "é"}, {"x-forwarded-for": "::1, x"}, {"cookie": "a=" + "b" * 5_000},
)  # fmt: skip


class Heard(Struct):
    """What a client heard: the status of its handshake, the texts of messages, and the code and reason it was closed on with (0: it was
    not). `left`: the client hung up first; `reset`: the system threw away what was on its way."""

    status: int = 0
    head: str = ""
    texts: list[str] = field(default_factory=list)
    code: int = 0
    reason: str = ""
    ended: bool = False
    left: bool = False
    reset: bool = False


def conversation(asked: list[Asked], chance: random.Random) -> tuple[str, list[bytes]]:
    """What was changed, and the parts that a client sends: its handshake, then frames."""
    good = chance.choice(asked)
    says = [_init(good.token)]
    for number in range(chance.randint(1, MESSAGES_MAX)):
        says.append(_subscribe(str(number % 5), good if chance.random() < 0.3 else mutated(good, asked, chance)[1]))
        if chance.random() < 0.3:
            says.append({"type": "complete", "id": str(number % 5)})
    name = chance.choice(list(CHANGES))
    return name, CHANGES[name](says, chance)


def _init(token: str) -> dict[str, Any]:
    return {"type": "connection_init", "payload": {"authorization": f"Bearer {token}"} if token else {}}


def _subscribe(id: str, asked: Asked) -> dict[str, Any]:
    return {"type": "subscribe", "id": id, "payload": asked.body}


def _messages(says: list[Any], chance: random.Random) -> list[bytes]:
    """Messages are missing, doubled or exchanged, or a part of one is what no good client sends."""
    for _ in range(chance.choice([1, 1, 3])):
        at = chance.randrange(len(says))
        if not isinstance(says[at], dict) or chance.random() < 0.4:
            says[at : at + 1] = chance.choice([[], [says[at]] * 2, [says[at]] * 30, [chance.choice(says)], [chance.choice(HOSTILE)]])
            says = says or [{"type": "ping"}]
        else:
            says[at] = says[at] | {chance.choice(["type", "id", "payload", "more"]): chance.choice(HOSTILE + KINDS)}
    return [handshake(), *(frame(_encoded(message)) for message in says)]


def _bytes(says: list[Any], chance: random.Random) -> list[bytes]:
    """A message's bytes."""
    frames = []
    for message in says:
        text = bytearray(_encoded(message))
        if chance.random() < 0.3:
            at = chance.randrange(len(text) + 1)
            text[at : at + chance.randrange(3)] = chance.choice(
                [b"\xff", b"\x00", b'"', b"{", b"[" * 9_000, b"\\ud800", b"1e999", chance.randbytes(4)]
            )
        frames.append(frame(bytes(text)))
    return [handshake(), *frames]


def _frames(says: list[Any], chance: random.Random) -> list[bytes]:
    """The frames around the messages."""
    frames = [frame(_encoded(message)) for message in says]
    for _ in range(chance.choice([1, 1, 3])):
        at, text = chance.randrange(len(frames)), _encoded(chance.choice(says))
        frames[at : at + 1] = chance.choice(
            [
                [frame(text[:9], final=False), frame(text[9:], 0)],
                [frame(text[:9], final=False), frame(b"x", PING), frame(b"", 0, final=False), frame(text[9:], 0)],
                [frame(text[:9], final=False), frame(text)],
                [frame(text, 0)],
                [frame(text, chance.choice([BINARY, 3, 7, 11, 15]))],
                [frame(text, rsv=chance.randint(1, 7))],
                [frame(text, masked=False)],
                [frame(b"x" * chance.choice([0, 125, 126]), chance.choice([PING, PONG]), final=chance.random() < 0.9)] * 50,
                [
                    frame(
                        chance.choice(
                            [b"", b"\x03", b"\x03\xe8", b"\x00\x00", b"\x03\xed", b"\x03\xe9", b"\x13\x88\xff", b"\xff\xff" + b"x" * 200]
                        ),
                        CLOSE,
                    )
                ],
                [frame(b"x" * 300_000)],
                [bytes([0x81, 0xFF]) + struct.pack(">Q", chance.choice([2**63, 2**62, 300_000, 0])) + bytes(4)],
                [bytes([0x81, 0xFE, 0, 5]) + bytes(4) + b"12345"],
                [frames[at][: chance.randrange(len(frames[at]))]],
                [chance.randbytes(chance.randrange(200))],
            ]
        )
    return [handshake(), *frames]


def _handshakes(says: list[Any], chance: random.Random) -> list[bytes]:
    """The request that begins it."""
    opening = handshake(chance.choice(HANDSHAKES))
    if chance.random() < 0.2:
        at = chance.randrange(len(opening))
        opening = opening[:at] + chance.choice([b"", b"\x00", b"\xff", b"\r\n", b":", b" "]) + opening[at + 1 :]
    return [opening, *(frame(_encoded(message)) for message in says)]


CHANGES: dict[str, Callable[[list[Any], random.Random], list[bytes]]] = {
    "what is said": _messages,
    "its bytes": _bytes,
    "its frames": _frames,
    "its handshake": _handshakes,
}


def _encoded(message: Any) -> bytes:
    return json.dumps(message).encode()


def handshake(changes: dict[str, str] | None = None) -> bytes:
    """The request for a WebSocket."""
    headers = {"host": "x", "connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    headers |= {"sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==", "sec-websocket-protocol": PROTOCOL} | (changes or {})
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"GET /graphql HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


def frame(data: bytes, opcode: int = TEXT, *, final: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """One frame of a client, whose mask changes nothing."""
    mask = 0x80 if masked else 0
    first = bytes([(0x80 if final else 0) | rsv << 4 | opcode])
    if len(data) < 126:
        length = bytes([mask | len(data)])
    elif len(data) < 2**16:
        length = bytes([mask | 126]) + struct.pack(">H", len(data))
    else:
        length = bytes([mask | 127]) + struct.pack(">Q", len(data))
    return first + length + (bytes(4) if masked else b"") + data


async def talked(address: str, parts: list[bytes]) -> Heard:
    """Says all of it, listens until nothing more comes, then hangs up in order."""
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**24)
    heard = Heard()
    try:
        writer.write(parts[0])
        heard.head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        heard.status = int(heard.head.split()[1])
        if heard.status == 101:
            for part in parts[1:]:
                writer.write(part)
            await _listened(reader, heard, QUIET_SECONDS)
            if not heard.ended:
                writer.write(frame(struct.pack(">H", 1000), CLOSE))
        if not heard.ended:
            heard.left = True
            writer.write_eof()
        await _listened(reader, heard, None)
    except (OSError, asyncio.IncompleteReadError):
        heard.reset = True
    finally:
        writer.close()
    return heard


async def _listened(reader: asyncio.StreamReader, heard: Heard, seconds: float | None) -> None:
    """Takes what comes until the end, or until for so many seconds nothing does."""
    while True:
        try:
            async with asyncio.timeout(seconds):
                part = await reader.read(1) if heard.status == 101 else await reader.read()
        except TimeoutError:
            return
        if heard.status != 101 or not part:
            heard.head += part.decode("latin-1")
            heard.ended = True
            return
        opcode, length = part[0] & 15, (await reader.readexactly(1))[0]
        if length > 125:
            length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8))
        data = await reader.readexactly(length)
        if opcode == TEXT:
            heard.texts.append(data.decode())
        elif opcode == CLOSE:
            heard.code, heard.reason = int.from_bytes(data[:2]) or 1005, data[2:].decode()
