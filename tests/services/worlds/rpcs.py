"""Every rpc of the suite, found from the descriptors, and calling one by its name as anybody."""

import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import Default as default_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from msgspec import Struct

import quanyu
from quanyu.access.v1 import access_pb2
from services.kit import status
from services.kit.access import rule_of
from services.kit.errors import Refusal
from services.kit.principals import Grant
from tests.services.conftest import Running

READS = re.compile(r"(Get|BatchGet|List|BatchList|Search|Check|Resolve)(?=[A-Z])")
FACTS = "quanyu.facts.v1"


@cache
def rpcs() -> Mapping[str, MethodDescriptor]:
    """`ChartService.CreateUnit` -> the rpc."""
    root = Path(next(iter(quanyu.__path__)))
    found = {}
    for path in sorted(root.rglob("*_pb2.py")):
        name = str(path.relative_to(root.parent))
        import_module(name.removesuffix(".py").replace("/", "."))
        for service in default_pool().FindFileByName(name.replace("_pb2.py", ".proto")).services_by_name.values():
            found |= {f"{service.name}.{method.name}": method for method in service.methods}
    return found


def served_by(process: str) -> list[str]:
    """The names of the rpcs of one process, reads before writes. Those about facts are in every process."""
    packages = {f"quanyu.{process}.v1", FACTS}
    names = [name for name, method in rpcs().items() if method.containing_service.file.package in packages]
    return sorted(names, key=lambda name: not is_read(name))


def is_read(name: str) -> bool:
    return READS.match(rpcs()[name].name) is not None


def roles_of(name: str) -> list[str]:
    """The roles an rpc's rule names."""
    return [access_pb2.Role.Name(role) for role in rule_of(rpcs()[name]).roles]


def asked(name: str, /, **fields: Any) -> Message:
    """A request of that rpc."""
    return GetMessageClass(rpcs()[name].input_type)(**fields)


class Person(Struct, frozen=True):
    """Somebody who calls: how the test names them, who they are, and what they may be. Without `id`: nobody."""

    label: str
    id: str = ""
    grants: tuple[Grant, ...] = ()


class Outcome(Struct, frozen=True):
    """What came of a call: an answer, a refusal, or neither: a bug."""

    answer: Message | None = None
    refusal: Refusal | None = None
    broken: str = ""

    @property
    def told(self) -> str:
        """In a word."""
        return "answered" if self.answer is not None else self.refusal.reason if self.refusal else self.broken


class Suite:
    """The running services as anybody calls them; `offset` moves the clocks of all calls."""

    def __init__(self, running: Mapping[str, Running], offset: float) -> None:
        self.running, self.offset = running, offset
        self.channels: dict[tuple[str, Person], grpc.aio.Channel] = {}

    async def call(self, name: str, person: Person, request: Message, process: str = "") -> Outcome:
        """Calls an rpc at the process that serves it (`process` for those every process has)."""
        method = rpcs()[name]
        process = process or method.containing_service.file.package.split(".")[1]
        path = f"/{method.containing_service.full_name}/{method.name}"
        answer_type = GetMessageClass(method.output_type)
        stub = self._channel(process, person).unary_unary(
            path, request_serializer=type(request).SerializeToString, response_deserializer=answer_type.FromString
        )
        try:
            return Outcome(answer=await stub(request, timeout=20))
        except Refusal as refusal:
            return Outcome(refusal=refusal)
        except grpc.aio.AioRpcError as error:
            refused = status.from_rpc_error(error)
            return Outcome(refusal=refused) if refused else Outcome(broken=f"{error.code().name} {error.details()}")

    async def do(self, name: str, person: Person, /, **fields: Any) -> Any:
        """Calls an rpc that must succeed."""
        outcome = await self.call(name, person, asked(name, **fields))
        assert outcome.answer is not None, f"{name} as {person.label}: {outcome.refusal or outcome.broken}"
        return outcome.answer

    def _channel(self, process: str, person: Person) -> grpc.aio.Channel:
        if (process, person) not in self.channels:
            running = self.running[process]
            channel = running.channel_as(*person.grants, subject=person.id, offset=self.offset) if person.id else running.anonymous()
            self.channels[process, person] = channel
        return self.channels[process, person]
