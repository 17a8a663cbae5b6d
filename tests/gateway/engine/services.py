"""Simulated services: a gRPC server in this process that answers any rpc of the suite from memory.

Messages are generated from the descriptors and a seed: equal requests have equal responses, for every caller and batch. The seed also
decides which rpcs refuse, fail or exceed their deadline, and which fields they leave out. The behaviour of the services is not simulated.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_status import rpc_status

from gateway.graph import batch_loaders, schema
from gateway.rpc.clients import Rpc
from gateway.schema.batch_loader import BatchLoader
from gateway.schema.rpc_fields import MutationField, RpcField
from gateway.schema.types import NODE_TYPES
from services.kit import errors
from services.kit.rpc import status

LOADERS = [loader for loader in vars(batch_loaders).values() if isinstance(loader, BatchLoader)]
POOL = 6
"""There are so many ids of each kind: few, so that messages refer to each other."""
WORDS = ("", "white shirt", "白衬衫", 'a"b\\c\n', "\u2028", "😀", "0", "x" * 60)
REFUSALS = (
    errors.Invalid("INVALID_FIELD", "no", field="brand_id"),
    errors.NotFound("NOT_FOUND", "no such thing"),
    errors.Denied("NOT_PERMITTED", "not you"),
    errors.Denied("UNAUTHENTICATED", "not signed in"),
    errors.Conflict("TASK_CLOSED", "closed"),
    errors.Exhausted("OUT_OF_STOCK", "nothing left", fewer=True, held_until="2024-05-01T10:00:00.5Z"),
    errors.Unavailable("SERVICE_UNAVAILABLE", "later"),
)
MODES = ("answer",) * 30 + ("refuse",) * 4 + ("break",) * 2 + ("late",) * 2
HANGING_MODES = (*MODES, *("never",) * 10)
"""The modes with services that never answer."""
FLAW_RATE = 0.02
"""The share of values that the graph cannot represent: an unspecified or unknown enum, NaN, infinity, a time without a date."""


class Memory:
    """The responses of all services. `seed` decides their content; `modes` sets the mode of rpcs by their name.

    `hangs`: some rpcs never answer, and an operation that calls one lasts until its deadline.
    """

    def __init__(self) -> None:
        self.seed, self.flaw_rate = 0, FLAW_RATE
        self.modes: dict[str, str] = {}
        self.everything_answers = self.hangs = False
        self.calls: list[str] = []

    def mode(self, rpc: str) -> str:
        """Returns the mode of an rpc with this seed."""
        if rpc in self.modes or self.everything_answers:
            return self.modes.get(rpc, "answer")
        return random.Random(f"{self.seed} {rpc}").choice(HANGING_MODES if self.hangs else MODES)

    def answer(self, rpc: Rpc, request: Message) -> Message:
        """Returns the response of an rpc."""
        loader = next((loader for loader in LOADERS if loader.rpc.path == rpc.path and getattr(request, loader.keys)), None)
        if loader is None:
            keyless = type(request)()
            keyless.CopyFrom(request)
            if "request_id" in keyless.DESCRIPTOR.fields_by_name:
                keyless.ClearField("request_id")
            return self.create(rpc.response(), f"{rpc.path} {keyless.SerializeToString(deterministic=True)!r}")
        response = rpc.response()
        for key in getattr(request, loader.keys):
            rest = [(field.name, value) for field, value in request.ListFields() if field.name != loader.keys]
            seed = f"{self.seed} {loader.item.full_name} {key} {rest}"
            chance = random.Random(seed)
            for number in range(chance.choice((0, 1, 2, 3)) if loader.is_list else int(chance.random() > 0.15)):
                item = getattr(response, loader.items).add()
                self.create(item, f"{seed} {number}")
                setattr(item, loader.key_name, key)
        return response

    def create(self, message: Any, seed: str) -> Any:
        """Fills the message and returns it."""
        self._fill(message, random.Random(f"{self.seed} {message.DESCRIPTOR.full_name} {seed}"), 0)
        return message

    def _fill(self, message: Any, chance: random.Random, depth: int) -> None:
        if isinstance(message, Timestamp):
            message.seconds = -(10**13) if self._is_flawed(chance) else chance.randrange(1_500_000_000, 1_800_000_000)
            message.nanos = chance.choice((0, 0, 500_000_000, 123_000, 1))
            return
        for field in message.DESCRIPTOR.fields:
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                getattr(message, field.name).update({f"name{number}": f"value {number}" for number in range(chance.randrange(3))})
            elif field.is_repeated:
                self._repeat(message, field, chance, depth)
            elif field.message_type is not None:
                if depth < 5 and chance.random() < (1 - self.flaw_rate * 5):
                    part = getattr(message, field.name)
                    part.SetInParent()
                    self._fill(part, chance, depth + 1)
            elif not field.has_presence or chance.random() < 0.7:
                setattr(message, field.name, self._leaf(field, chance))

    def _repeat(self, message: Any, field: FieldDescriptor, chance: random.Random, depth: int) -> None:
        for _ in range(chance.choice((0, 1, 2, 3)) if depth < 4 else 0):
            if field.message_type is not None:
                self._fill(getattr(message, field.name).add(), chance, depth + 1)
            else:
                getattr(message, field.name).append(self._leaf(field, chance))

    def _is_flawed(self, chance: random.Random) -> bool:
        return chance.random() < self.flaw_rate

    def _leaf(self, field: FieldDescriptor, chance: random.Random) -> Any:
        if field.enum_type is not None:
            if self._is_flawed(chance):
                return chance.choice((0, 99))
            return chance.choice([value.number for value in field.enum_type.values if value.number])
        if field.type == FieldDescriptor.TYPE_STRING:
            if field.name == "id" or field.name.endswith(("_id", "_ids")):
                return random_id(field.name, chance)
            if field.name == "currency":
                return chance.choice(("CNY", "JPY", "KWD"))
            return chance.choice(WORDS)
        if field.type == FieldDescriptor.TYPE_BOOL:
            return chance.random() < 0.5
        if field.type == FieldDescriptor.TYPE_DOUBLE:
            return chance.choice((float("nan"), float("inf"))) if self._is_flawed(chance) else chance.choice((0.0, 1.5, -2.25, 1e-9, 3.0))
        if field.type == FieldDescriptor.TYPE_BYTES:
            return b"\x00"
        if field.type in (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64):
            return chance.choice((0, 1, 39_900, 2**40))
        return chance.choice((0, 1, 7, 2**31 - 1))


KINDS = {"brand": "brd_", "seller": "brd_", "store": "str_", "unit": "unt_", "parent": "unt_", "staff": "stf_", "consumer": "con_"}


def random_id(name: str, chance: random.Random) -> str:
    """Returns an id that a field of this name may have; sometimes an empty one, or one of any kind."""
    if chance.random() < 0.1:
        return ""
    noun = name.removesuffix("s").removesuffix("_id").rpartition("_")[2]
    return KINDS.get(noun, chance.choice(list(NODE_TYPES))) + str(chance.randrange(POOL))


def rpcs() -> dict[str, Rpc]:
    """Returns every rpc that the graph calls, by its path."""
    found = {loader.rpc.path: loader.rpc for loader in LOADERS}
    for type_ in schema.build()._schema.type_map.values():
        for field in getattr(type_, "fields", {}).values():
            definition = field.extensions.get("strawberry-definition")
            if isinstance(definition, RpcField | MutationField):
                found[definition.rpc.path] = definition.rpc
    return found


class _Handler(grpc.GenericRpcHandler):
    """Answers all rpcs that the graph calls."""

    def __init__(self, memory: Memory) -> None:
        self.memory, self.rpcs = memory, rpcs()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        rpc = self.rpcs.get(details.method)
        if rpc is None:
            return None

        async def answer(request: Message, context: Any) -> Message:
            self.memory.calls.append(rpc.method.name)
            mode = self.memory.mode(rpc.method.name)
            if mode == "refuse":
                refusal = random.Random(f"{self.memory.seed} {rpc.path} why").choice(REFUSALS)
                await context.abort_with_status(rpc_status.to_status(status.to_status(refusal)))
            if mode == "break":
                await context.abort(grpc.StatusCode.INTERNAL, "internal error")
            if mode == "late":
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "too late")
            if mode == "never":
                await asyncio.Event().wait()  # until the caller gives up
            return self.memory.answer(rpc, request)

        return grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=rpc.request.FromString, response_serializer=rpc.response.SerializeToString
        )


@asynccontextmanager
async def serve(memory: Memory) -> AsyncIterator[str]:
    """Yields the address of a server that answers from memory."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Handler(memory),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
