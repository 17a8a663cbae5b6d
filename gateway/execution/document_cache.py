"""Document cache: parsed and validated documents by their text, with the plans that the engine compiled for them.

Documents used once and documents used again are cached apart, so that a flood of new documents evicts no reused one. Together they take at
most 52 MB (`REUSED_BYTES_MAX` and `FRESH_BYTES_MAX`).
"""

import msgspec
from cachetools import LRUCache
from graphql import DocumentNode, GraphQLError, OperationDefinitionNode
from msgspec import Struct

from gateway.engine.collect_fields import Uncompiled
from gateway.engine.engine import CompiledOperation

CHARACTER_BYTES = 300
"""One character of a parsed document takes at most this much memory."""
REUSED_MAX, REUSED_BYTES_MAX = 1_000, 40_000_000
"""The cache keeps this many documents that were used at least twice, in this many bytes with their plans."""
FRESH_MAX, FRESH_BYTES_MAX = 100, 12_000_000
"""The cache keeps this many documents that were used once, in this many bytes with their plans."""
PLANS_BYTES_MAX = 2_000_000
"""The plans of one document may take this many bytes, so that ten operations with 160 plans do not evict all other documents."""


class ParsedDocument(Struct, frozen=True):
    """A document with its syntax tree, or with the errors that make it invalid."""

    ast: DocumentNode | None
    """The syntax tree; None for an invalid document."""
    text: str = ""
    errors: tuple[GraphQLError, ...] = ()
    cost_max: int = 0
    """Points of its most expensive operation with its most expensive variables."""
    operations: dict[str | None, OperationDefinitionNode] = msgspec.field(default_factory=dict)
    """The operations that were found so far, by requested name."""
    compiled: dict[str | None, CompiledOperation | Uncompiled] = msgspec.field(default_factory=dict)
    """The same operations, compiled by the engine."""

    @property
    def plan_bytes(self) -> int:
        """An upper bound of the bytes of its plans."""
        return sum(each.weight for each in self.compiled.values() if isinstance(each, CompiledOperation))

    @property
    def size_bytes(self) -> int:
        """An upper bound of the bytes of the document with its plans."""
        return len(self.text) * CHARACTER_BYTES + self.plan_bytes

    def find_operation(self, name: str | None) -> OperationDefinitionNode | None:
        """Returns the operation of that name, without a name the only one; None if there is none or the name is ambiguous."""
        found = self.operations.get(name)
        if found is None and self.ast is not None:
            operations = [item for item in self.ast.definitions if isinstance(item, OperationDefinitionNode)]
            matching = operations if name is None else [item for item in operations if item.name is not None and item.name.value == name]
            if len(matching) == 1:
                found = self.operations[name] = matching[0]
        return found


class DocumentLRU(LRUCache[str, ParsedDocument]):
    """An LRU cache of documents by their text, bounded by their number and by the bytes that they take with their plans."""

    def __init__(self, documents_max: int, bytes_max: int) -> None:
        super().__init__(bytes_max)
        self.documents_max = documents_max

    @staticmethod
    def getsizeof(value: ParsedDocument) -> int:
        """Returns the bytes that a document takes."""
        return value.size_bytes

    def put(self, document: ParsedDocument) -> None:
        """Adds the document, or measures it again; evicts the least recently used ones. One that is larger than the cache is not kept."""
        self.pop(document.text, None)
        if document.size_bytes <= self.maxsize:
            self[document.text] = document
            if len(self) > self.documents_max:
                self.popitem()


class DocumentCache:
    """The documents of one executor: in `fresh` after their first use, in `reused` after the second."""

    def __init__(self) -> None:
        self.reused, self.fresh = DocumentLRU(REUSED_MAX, REUSED_BYTES_MAX), DocumentLRU(FRESH_MAX, FRESH_BYTES_MAX)

    def find(self, text: str) -> ParsedDocument | None:
        """Returns a cached document and counts this as a use of it."""
        try:
            return self.reused[text]
        except KeyError:
            if (document := self.fresh.pop(text, None)) is not None:
                self.reused.put(document)
            return document

    def add(self, document: ParsedDocument) -> None:
        """Adds a document at its first use."""
        self.fresh.put(document)

    def measure(self, document: ParsedDocument) -> None:
        """Measures a document again after one more plan was compiled. Above `PLANS_BYTES_MAX`, it loses all its plans."""
        if document.plan_bytes > PLANS_BYTES_MAX:
            for each in document.compiled.values():
                if isinstance(each, CompiledOperation):
                    each.forget()
        for cache in (self.reused, self.fresh):
            if cache.get(document.text) is document:
                cache.put(document)
