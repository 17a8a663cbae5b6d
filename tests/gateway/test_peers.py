"""Who is connected: so many of an address, and so many bytes for those who take nothing."""

import asyncio
import gc
import json
import socket
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import httpx
import pytest
from graphql import get_introspection_query

from gateway import peers
from gateway.asked import BODY_SECONDS_MAX
from gateway.observability import coalesced_log
from gateway.peers import Peers
from gateway.wire import HEAD_BYTES_MAX
from services.kit.settings import Settings, SettingsError
from tests.gateway.conftest import Gateway, Open
from tests.gateway.serving import SECONDS_MAX, Served, serving, until
from tests.gateway.test_subscriptions_wire import HANDSHAKE, INIT, framed

ELSEWHERE = "10.0.0.1"
CHUNKED = b"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
ASKED = json.dumps({"query": get_introspection_query()})
LARGE = f"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(ASKED)}\r\n\r\n{ASKED}".encode()
BUFFER = 4_096


def peers_of(served: Served) -> Peers:
    return served.server.config.http.keywords["peers"]  # type: ignore[union-attr]


async def line(served: Served, sent: bytes) -> tuple[bytes, asyncio.StreamWriter]:
    """The first line that is answered, over a connection of its own that stays."""
    host, _, port = served.address.partition(":")
    async with asyncio.timeout(SECONDS_MAX):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        return await reader.readline(), writer


@pytest.mark.parametrize("sent", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * HEAD_BYTES_MAX + b"\r\n\r\n"])
async def test_what_is_no_http_is_told_so_under_an_id(alone: Gateway, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(alone) as served:
        host, _, port = served.address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        async with asyncio.timeout(SECONDS_MAX):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert head.startswith(b"HTTP/1.1 400 ") and b"content-type: application/json" in head
        (error,) = json.loads(body)["errors"]
        assert error["extensions"] == {"code": "BAD_REQUEST", "id": peers_of(served).unread.id}
    assert not caplog.records, "of all of them the log is told in one line"


async def test_what_follows_a_body_is_no_header(alone: Gateway) -> None:
    body = b'{"query":"{__typename}"}'
    async with serving(alone) as served:
        answered, writer = await line(served, CHUNKED + b"%x\r\n%b\r\n0\r\nauthorization: Bearer x\r\n\r\n" % (len(body), body))
        writer.close()
        assert answered.split()[1] == b"200"


@pytest.mark.parametrize("trailer", [b"a: b\r\n", b"bbbbbb"])
async def test_what_follows_a_body_has_a_bound(alone: Gateway, trailer: bytes) -> None:
    async with serving(alone, limit_body_bytes=1_000) as served, asyncio.timeout(BODY_SECONDS_MAX - 1):
        host, _, port = served.address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(CHUNKED + b"2\r\n{}\r\n0\r\na: b")
        await until(lambda: bool(served.server.server_state.connections))
        (connection,) = served.server.server_state.connections
        await until(lambda: connection.cycle is not None)  # type: ignore[union-attr]
        for _ in range(10):
            writer.write(trailer * (HEAD_BYTES_MAX // len(trailer) // 4))
            await writer.drain()
        assert (await reader.readline()).split()[1] == b"400"
        assert len(connection.headers) == 3  # type: ignore[union-attr]
        writer.close()


async def test_a_piece_of_a_body_may_be_as_long_as_a_body(alone: Gateway) -> None:
    body = b'{"query":"{__typename}"' + b" " * 200_000 + b"}"
    async with serving(alone) as served:
        answered, writer = await line(served, CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        writer.close()
        assert answered.split()[1] == b"200"


@pytest.mark.parametrize("sent", [HEALTH, b"POST" + HEALTH[3:-2] + b"content-length: 100\r\n\r\n"])
async def test_what_is_no_request_keeps_no_connection(alone: Gateway, sent: bytes) -> None:
    async with serving(alone) as served, asyncio.timeout(SECONDS_MAX):
        served.server.config.timeout_keep_alive = 1
        _, writer = await line(served, sent)
        (wire,) = served.server.server_state.connections
        await until(lambda: wire.timeout_keep_alive_task is not None)  # type: ignore[union-attr]
        writer.write(b"\r\n")
        await until(lambda: not served.server.server_state.connections)
        writer.close()


async def test_an_answer_to_head_has_no_body_so_that_the_next_one_is_the_next(open_gateway: Open) -> None:
    async with serving(await open_gateway(operations_max=0)) as served:
        host, _, port = served.address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        for path, status in (("/graphql", b"503"), ("/webhooks/a/b", b"503"), ("/nowhere", b"404"), ("/health", b"200")):
            writer.write(f"HEAD {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            async with asyncio.timeout(SECONDS_MAX):
                head = await reader.readuntil(b"\r\n\r\n")
            assert head.split()[1] == status
        writer.close()


async def test_a_request_that_is_answered_leaves_nothing_to_collect(alone: Gateway) -> None:
    async with serving(alone) as served, httpx.AsyncClient(base_url=f"http://{served.address}", trust_env=False) as http:
        gc.disable()
        try:
            answered = []
            for _ in range(3):
                assert (await http.post("/graphql", json={"query": "{ __typename }"})).status_code == 200
                (connection,) = served.server.server_state.connections
                answered.append(weakref.ref(connection.running))  # type: ignore[union-attr]
            await until(lambda: not any(request() for request in answered[:-1]))
        finally:
            gc.enable()


def test_in_production_nobody_is_believed_who_is_not_named() -> None:
    assert Peers(Settings(trusted_proxies="*")).key("10.0.0.1") == ""
    with pytest.raises(SettingsError, match="QUANYU_TRUSTED_PROXIES"):
        Peers(Settings(trusted_proxies="*", env="production"))


async def test_an_address_has_so_many_connections(
    alone: Gateway, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(coalesced_log, "WINDOW_SECONDS", 0.05)
    async with serving(alone, connections_address=2, trusted_proxies=ELSEWHERE) as served:
        kept = [await line(served, sent) for sent in (HEALTH, HANDSHAKE)]
        assert [said.split()[1] for said, _ in kept] == [b"200", b"101"]
        for _ in range(3):
            refused, writer = await line(served, b"")
            assert refused == b"HTTP/1.1 503 Service Unavailable\r\n"
            writer.close()
        for number, (_, writer) in enumerate(kept):
            writer.close()
            await until(lambda left=1 - number: peers_of(served).places.inside == left)  # type: ignore[misc]
            said, another = await line(served, HEALTH)
            assert said.split()[1] == b"200", "its place is free"
            another.close()
            await until(lambda left=1 - number: peers_of(served).places.inside == left)  # type: ignore[misc]
        await until(lambda: not peers_of(served).refused.count)
    (told,) = [told for told in capfd.readouterr().out.splitlines() if "connections refused" in told]
    assert "count=" in told and "127.0.0.1" not in told


async def test_those_of_a_proxy_that_is_believed_are_everybodys(alone: Gateway) -> None:
    async with serving(alone, connections_address=1, trusted_proxies="127.0.0.0/8") as served:
        for said, writer in [await line(served, HEALTH) for _ in range(3)]:
            assert said.split()[1] == b"200"
            writer.close()


async def test_there_are_so_many_in_all(alone: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "CONNECTIONS_MAX", 1)
    async with serving(alone) as served:
        answers = [await line(served, HEALTH) for _ in range(2)]
        assert [said.split()[1] for said, _ in answers] == [b"200", b"503"]
        for _, writer in answers:
            writer.close()


def test_an_ipv6_network_is_one_address() -> None:
    connected = Peers(Settings(connections_address=1))
    assert connected.admit(connected.key("2001:db8::1"))
    assert connected.admit(connected.key("2001:db8:0:1::1"))
    assert not connected.places.of[connected.key("2001:db8::2")] < 1


@contextmanager
def deaf(served: Served, sent: bytes) -> Iterator[socket.socket]:
    """A client that asks and reads nothing."""
    host, _, port = served.address.partition(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        client.settimeout(SECONDS_MAX)
        client.connect((host, int(port)))
        client.sendall(sent)
        yield client


def unsent(served: Served) -> int:
    """Bytes that wait in all write buffers."""
    return sum(each.transport.get_write_buffer_size() for each in served.server.server_state.connections)


async def asked(served: Served) -> httpx.Response:
    """The large answer, to somebody who takes it."""
    async with httpx.AsyncClient(base_url=f"http://{served.address}", trust_env=False, timeout=SECONDS_MAX) as http:
        return await http.post("/graphql", content=ASKED, headers={"content-type": "application/json"})


async def test_clients_that_take_nothing_hold_so_many_bytes_in_all(alone: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    size, clients = len((await alone.post(json.loads(ASKED))).content), 60
    monkeypatch.setattr(peers, "UNSENT_BYTES_MAX", 10 * size)
    async with serving(alone, buffer_bytes=BUFFER) as served, asyncio.timeout(4 * SECONDS_MAX):
        connected, most = peers_of(served), 0
        with ExitStack() as stack:
            for number in range(clients):
                stack.enter_context(deaf(served, LARGE))
                await until(lambda answered=number + 1: served.server.server_state.total_requests == answered)  # type: ignore[misc]
                most = max(most, unsent(served))
            assert 5 * size < most <= 11 * size, "whoever is cut off is so in the next turn of the event loop"
            assert len((await asked(served)).json()["data"]["__schema"]["types"]) > 100, "who takes what they ask for gets it"
            await until(lambda: len(served.server.server_state.connections) == len(connected.slow))
            assert 5 * size < unsent(served) <= connected.unsent <= 10 * size
        await until(lambda: not served.server.server_state.connections)
        assert connected.unsent == 0


async def test_who_takes_too_little_is_cut_off_as_who_takes_nothing() -> None:
    cut, client = [], peers.Peer()
    client.loop, client.peers = asyncio.get_running_loop(), SimpleNamespace(cut_off=cut.append)
    waited = 3 * peers.STALL_BYTES_MIN
    for taken, ends in ((0, True), (peers.STALL_BYTES_MIN - 1, True), (peers.STALL_BYTES_MIN, False)):
        client.transport = SimpleNamespace(get_write_buffer_size=lambda left=waited - taken: left)
        client._look(waited)
        assert bool(cut) is ends
        cut.clear()
    client.stalling.cancel()


async def test_one_holds_so_many(alone: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "UNSENT_BYTES_EACH", 10_000)
    async with serving(alone, buffer_bytes=BUFFER) as served:
        with deaf(served, LARGE):
            await until(lambda: served.server.server_state.total_requests == 1)
            await until(lambda: not served.server.server_state.connections)


async def test_who_has_not_taken_an_answer_asks_for_no_other_and_keeps_no_place(open_gateway: Open) -> None:
    alone = await open_gateway(operations_max=1)
    async with serving(alone, buffer_bytes=BUFFER) as served:
        with deaf(served, LARGE * 3):
            await until(lambda: served.server.server_state.total_requests == 1)
            waited = unsent(served)
            assert (await asked(served)).status_code == 200
            assert unsent(served) <= waited
            assert served.server.server_state.total_requests == 2, "the others have not begun"


async def test_the_messages_behind_what_a_socket_does_not_take_count_too(alone: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len((await alone.post(json.loads(ASKED))).content)
    monkeypatch.setattr(peers, "UNSENT_BYTES_EACH", 5 * size)
    said = [json.dumps({"id": str(number), "type": "subscribe", "payload": json.loads(ASKED)}) for number in range(8)]
    async with serving(alone, buffer_bytes=BUFFER) as served:
        with deaf(served, HANDSHAKE) as client:
            assert (await asyncio.to_thread(client.recv, 1_000)).startswith(b"HTTP/1.1 101")
            client.sendall(framed(INIT) + b"".join(map(framed, said)))
            await until(lambda: peers_of(served).places.inside == 1)
            await until(lambda: peers_of(served).places.inside == 0)


async def test_a_socket_that_takes_nothing_hears_of_its_last_ping_only(alone: Gateway) -> None:
    async with serving(alone, buffer_bytes=BUFFER) as served:
        with deaf(served, HANDSHAKE) as client:
            assert (await asyncio.to_thread(client.recv, 1_000)).startswith(b"HTTP/1.1 101")
            client.sendall(framed(INIT) + framed(json.dumps({"id": "1", "type": "subscribe", "payload": json.loads(ASKED)})))
            await until(lambda: bool(peers_of(served).slow))
            waited, (slow,) = unsent(served), peers_of(served).slow
            for number in range(1_000):
                client.sendall(b"\x89\x84" + bytes(4) + b"%04d" % number)
            await until(lambda: slow.pong == b"\x8a\x04" + b"0999")  # type: ignore[attr-defined]
            assert unsent(served) <= waited
            heard = bytearray()
            while b"\x8a\x04" + b"0999" not in heard:
                heard += await asyncio.to_thread(client.recv, 1_000_000)
            assert heard.count(b"\x8a\x04") == 1
