"""All rpcs of the suite, from the descriptors, and a client that calls one by its name as any person."""

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
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
from services.kit.errors import Refusal
from services.kit.rpc import status
from services.kit.rpc.channel import CURSOR_KEY, iterate_responses
from services.kit.security import authorization
from services.kit.security.principals import Grant
from tests.services.conftest import ServiceHarness

READ_VERBS = re.compile(r"(Get|BatchGet|List|BatchList|Search|Check|Resolve|Watch)(?=[A-Z])")
EVENTS = "quanyu.events.v1"
RESPONSE_SECONDS_MAX = 20.0


@cache
def rpcs() -> Mapping[str, MethodDescriptor]:
    """Returns all rpcs by names like `ChartService.CreateOrgUnit`."""
    root = Path(next(iter(quanyu.__path__)))
    found = {}
    for path in sorted(root.rglob("*_pb2.py")):
        name = str(path.relative_to(root.parent))
        import_module(name.removesuffix(".py").replace("/", "."))
        for service in default_pool().FindFileByName(name.replace("_pb2.py", ".proto")).services_by_name.values():
            found |= {f"{service.name}.{method.name}": method for method in service.methods}
    return found


def served_by(process: str) -> list[str]:
    """Returns the names of the rpcs of one process, reads before writes. Each process has the rpcs of events."""
    packages = {f"quanyu.{process}.v1", EVENTS}
    names = [name for name, method in rpcs().items() if method.containing_service.file.package in packages]
    return sorted(names, key=lambda name: not is_read(name))


def is_read(name: str) -> bool:
    return READ_VERBS.match(rpcs()[name].name) is not None


def is_stream(name: str) -> bool:
    """True for a streaming rpc. `Suite.call` reads a stream until it ends, so the services need a short time limit."""
    return rpcs()[name].server_streaming


def roles_of(name: str) -> list[str]:
    """Returns the roles that may call an rpc, in the order of the enum."""
    allowed = authorization.roles_of(rpcs()[name])
    return [label for label, _ in access_pb2.Role.items() if label in allowed]


def make_request(name: str, /, **fields: Any) -> Message:
    """Builds a request of an rpc."""
    return GetMessageClass(rpcs()[name].input_type)(**fields)


class Person(Struct, frozen=True):
    """A caller: the label in messages of the test, the id and the grants. Without an id the caller is anonymous."""

    label: str
    id: str = ""
    grants: tuple[Grant, ...] = ()


class Outcome(Struct, frozen=True):
    """The outcome of a call: its answers, its refusal, or both for a stream that was refused later. `broken` describes a bug."""

    answers: tuple[Message, ...] = ()
    refusal: Refusal | None = None
    broken: str = ""

    @property
    def done(self) -> bool:
        """True if the call succeeded."""
        return self.refusal is None and not self.broken

    @property
    def label(self) -> str:
        """A short description of the outcome."""
        return self.refusal.reason if self.refusal else self.broken or "answered"


class Suite:
    """The clients of the running services for all people; `offset` is the clock offset of all calls."""

    def __init__(self, services: Mapping[str, ServiceHarness], offset: float) -> None:
        self.services, self.offset = services, offset
        self.channels: dict[tuple[str, Person], grpc.aio.Channel] = {}

    async def call(self, name: str, person: Person, request: Message, process: str = "") -> Outcome:
        """Calls an rpc at the process that serves it; `process` is needed for rpcs of every process."""
        answers: list[Message] = []
        try:
            async with aclosing(self._answers(name, person, request, process)) as responses:
                async for answer in responses:
                    answers.append(answer)
        except Refusal as refusal:
            return Outcome(tuple(answers), refusal)
        except grpc.aio.AioRpcError as error:
            refused = status.from_rpc_error(error)
            return Outcome(tuple(answers), refused, "" if refused else f"{error.code().name} {error.details()}")
        return Outcome(tuple(answers))

    async def start_cursor(self, name: str, person: Person, request: Message) -> str:
        """Returns the cursor of the start of a stream; empty if its initial metadata has none."""
        call = self._stub(name, person)(request, timeout=RESPONSE_SECONDS_MAX)
        try:
            return str(dict(await call.initial_metadata()).get(CURSOR_KEY, ""))
        finally:
            call.cancel()

    async def _answers(self, name: str, person: Person, request: Message, process: str) -> AsyncGenerator[Message, None]:
        call = self._stub(name, person, process)(request, timeout=RESPONSE_SECONDS_MAX)
        if is_stream(name):
            async with aclosing(iterate_responses(call)) as responses:
                async for answer in responses:
                    yield answer
        else:
            yield await call

    def _stub(self, name: str, person: Person, process: str = "") -> Any:
        method = rpcs()[name]
        channel = self._channel(process or method.containing_service.file.package.split(".")[1], person)
        return (channel.unary_stream if is_stream(name) else channel.unary_unary)(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )

    async def do(self, name: str, person: Person, /, **fields: Any) -> Any:
        """Calls an rpc and asserts that it succeeds."""
        outcome = await self.call(name, person, make_request(name, **fields))
        assert outcome.done, f"{name} as {person.label}: {outcome.refusal or outcome.broken}"
        (answer,) = outcome.answers
        return answer

    def _channel(self, process: str, person: Person) -> grpc.aio.Channel:
        if (process, person) not in self.channels:
            service = self.services[process]
            channel = service.channel_as(*person.grants, subject=person.id, offset=self.offset) if person.id else service.anonymous()
            self.channels[process, person] = channel
        return self.channels[process, person]
