"""What a run waits for: deferred fields in its queue, the keys of its batch rpcs, and the failures that arrive instead of values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from graphql import FieldNode

from gateway.schema.batch_loader import BatchLoader, BatchParameters

if TYPE_CHECKING:
    from gateway.engine.run import Run

Container = Any
"""The object or list of the answer that a value belongs in."""
Slot = str | int
"""The key or index of a value in its container."""


class Failure(NamedTuple):
    """The error that arrived instead of a value."""

    cause: Exception


class FieldFailure(NamedTuple):
    """An error of the answer. `path` begins at the slot of the container; without a container, at the root."""

    container: Container | None
    path: list[Slot]
    nodes: Sequence[FieldNode]
    cause: Exception


class Receiver(Protocol):
    """Receives a value: a deferred field, or a part of one."""

    is_pure: bool
    """Nothing below it is deferred, so that equal values have equal answers, which may be shared."""

    def settle(self, run: Run, value: Any, container: Container, slot: Slot) -> bool:
        """Completes the value, or a `Failure`, in its slot; returns True if it has no errors."""


class QueuedField(Receiver, Protocol):
    """A deferred field in the queue of a run."""

    def start(self, run: Run, key: Any, container: Container, slot: Slot) -> None:
        """Requests the value of the field."""


Pending = tuple[Receiver, Any, Container, Slot]
"""A receiver, the key whose value it receives, and the place of the value in the answer."""
Queued = tuple[QueuedField, Any, Container, Slot]
"""A deferred field, its key, and the place of its value in the answer."""


class KeyLoad:
    """The keys that one run loads by a batch rpc with the same parameters; each key is requested once."""

    __slots__ = ("loader", "new_keys", "parameters", "values", "waiting")

    def __init__(self, loader: BatchLoader, parameters: BatchParameters) -> None:
        self.loader, self.parameters = loader, parameters
        self.new_keys: list[str] = []
        """Keys that no call has requested yet."""
        self.values: dict[str, Any] = {}
        """Values and failures that have arrived, by their keys."""
        self.waiting: dict[str, list[Pending]] = {}
        """What waits for each key whose value has not arrived."""
