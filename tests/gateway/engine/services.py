"""Traffic for the gateway: gRPC servers in this process that answer any rpc of the suite from memory.

Messages are made from the descriptors and a seed: the same question has the same answer, whoever asks and however the keys are batched.
The seed also decides which rpcs refuse, break off or come too late, and what they leave out. Nothing here stands for what a service does.
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

from gateway.graph import batches, schema
from gateway.rpc.clients import Rpc
from gateway.schema.references import Batch
from gateway.schema.rpc_fields import CallField, MutationField
from gateway.schema.types import NODES
from services.kit import errors
from services.kit.rpc import status

BATCHES = [batch for batch in vars(batches).values() if isinstance(batch, Batch)]
POOL = 6
"""Ids of each kind: few, so that messages name each other."""
WORDS = ("", "white shirt", "白衬衫", 'a"b\\c\n', "\u2028", "😀", "0", "x" * 60)
REFUSALS = (
    errors.Invalid("INVALID_FIELD", "no", field="brand_id"),
    errors.NotFound("NOT_FOUND", "no such thing"),
    errors.Denied("NOT_PERMITTED", "not you"),
    errors.Denied("UNAUTHENTICATED", "who are you"),
    errors.Conflict("TASK_CLOSED", "it is over"),
    errors.Exhausted("OUT_OF_STOCK", "nothing left", fewer=True, held_until="2024-05-01T10:00:00.5Z"),
    errors.Unavailable("SERVICE_UNAVAILABLE", "later"),
)
MODES = ("answer",) * 30 + ("refuse",) * 4 + ("break",) * 2 + ("late",) * 2
HANGING = (*MODES, *("never",) * 10)
"""Of a world in which somebody waits in vain."""
FLAWS = 0.02
"""How often a value is one that the graph cannot say: an enum not specified or not known, a number that is none, a time before time."""


def key_of(batch: Batch) -> str:
    """The field of an item that is its key."""
    return str(batch.key.__reduce__()[1][0])  # type: ignore[index]


class Memory:
    """What all services answer. `seed` is what the world is made of, `modes` overrides what rpcs do by their name.

    `hangs`: some rpcs are of no answer at all, and an operation that takes one lasts until its deadline.
    """

    def __init__(self) -> None:
        self.seed, self.flaws = 0, FLAWS
        self.modes: dict[str, str] = {}
        self.everything_answers = self.hangs = False
        self.calls: list[str] = []

    def mode(self, rpc: str) -> str:
        """What an rpc does in this world."""
        if rpc in self.modes or self.everything_answers:
            return self.modes.get(rpc, "answer")
        return random.Random(f"{self.seed} {rpc}").choice(HANGING if self.hangs else MODES)

    def answer(self, rpc: Rpc, request: Message) -> Message:
        """The answer of an rpc."""
        batch = next((batch for batch in BATCHES if batch.rpc.path == rpc.path and getattr(request, batch.keys)), None)
        if batch is None:
            asked = type(request)()
            asked.CopyFrom(request)
            if "request_id" in asked.DESCRIPTOR.fields_by_name:
                asked.ClearField("request_id")
            return self.made(rpc.response(), f"{rpc.path} {asked.SerializeToString(deterministic=True)!r}")
        response = rpc.response()
        for key in getattr(request, batch.keys):
            rest = [(field.name, value) for field, value in request.ListFields() if field.name != batch.keys]
            seed = f"{self.seed} {batch.item.full_name} {key} {rest}"
            chance = random.Random(seed)
            for number in range(chance.choice((0, 1, 2, 3)) if batch.many else int(chance.random() > 0.15)):
                item = getattr(response, batch.items).add()
                self.made(item, f"{seed} {number}")
                setattr(item, key_of(batch), key)
        return response

    def made(self, message: Any, seed: str) -> Any:
        """The message, filled."""
        self._fill(message, random.Random(f"{self.seed} {message.DESCRIPTOR.full_name} {seed}"), 0)
        return message

    def _fill(self, message: Any, chance: random.Random, depth: int) -> None:
        if isinstance(message, Timestamp):
            message.seconds = -(10**13) if self._flawed(chance) else chance.randrange(1_500_000_000, 1_800_000_000)
            message.nanos = chance.choice((0, 0, 500_000_000, 123_000, 1))
            return
        for field in message.DESCRIPTOR.fields:
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                getattr(message, field.name).update({f"name{number}": f"value {number}" for number in range(chance.randrange(3))})
            elif field.is_repeated:
                self._repeat(message, field, chance, depth)
            elif field.message_type is not None:
                if depth < 5 and chance.random() < (1 - self.flaws * 5):
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

    def _flawed(self, chance: random.Random) -> bool:
        return chance.random() < self.flaws

    def _leaf(self, field: FieldDescriptor, chance: random.Random) -> Any:
        if field.enum_type is not None:
            if self._flawed(chance):
                return chance.choice((0, 99))
            return chance.choice([value.number for value in field.enum_type.values if value.number])
        if field.type == FieldDescriptor.TYPE_STRING:
            if field.name == "id" or field.name.endswith(("_id", "_ids")):
                return chosen_id(field.name, chance)
            if field.name == "currency":
                return chance.choice(("CNY", "JPY", "KWD"))
            return chance.choice(WORDS)
        if field.type == FieldDescriptor.TYPE_BOOL:
            return chance.random() < 0.5
        if field.type == FieldDescriptor.TYPE_DOUBLE:
            return chance.choice((float("nan"), float("inf"))) if self._flawed(chance) else chance.choice((0.0, 1.5, -2.25, 1e-9, 3.0))
        if field.type == FieldDescriptor.TYPE_BYTES:
            return b"\x00"
        if field.type in (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64):
            return chance.choice((0, 1, 39_900, 2**40))
        return chance.choice((0, 1, 7, 2**31 - 1))


KINDS = {"brand": "brd_", "seller": "brd_", "store": "str_", "unit": "unt_", "parent": "unt_", "staff": "stf_", "consumer": "con_"}


def chosen_id(name: str, chance: random.Random) -> str:
    """An id that a field of this name may hold; now and then none, or of any kind."""
    if chance.random() < 0.1:
        return ""
    noun = name.removesuffix("s").removesuffix("_id").rpartition("_")[2]
    return KINDS.get(noun, chance.choice(list(NODES))) + str(chance.randrange(POOL))


def rpcs() -> dict[str, Rpc]:
    """Every rpc that the graph calls, by its path."""
    found = {batch.rpc.path: batch.rpc for batch in BATCHES}
    for type_ in schema.build()._schema.type_map.values():
        for field in getattr(type_, "fields", {}).values():
            definition = field.extensions.get("strawberry-definition")
            if isinstance(definition, CallField | MutationField):
                found[definition.rpc.path] = definition.rpc
    return found


class _Handler(grpc.GenericRpcHandler):
    """Answers every rpc that the graph calls."""

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
async def serving(memory: Memory) -> AsyncIterator[str]:
    """The address of a server that answers from memory, for the time of the block."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Handler(memory),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
