"""Trusted documents: the operations of the front ends, each by the hash of its text (persisted operations).

    python -m gateway.execution.trusted_documents tests/stories/operations > documents.json

With QUANYU_DOCUMENTS=only the gateway rejects all other documents. The manifest has the form of `relay-compiler`'s (id -> text). The id is
the SHA-256 of the text as graphql-core prints it, so that neither comments nor layout change it. A client sends the id as `documentId`, or
as Apollo's `extensions.persistedQuery.sha256Hash`. Clients cannot register documents.
"""

import sys
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

import msgspec
import orjson
from graphql import GraphQLError, parse, print_ast

from services.kit.settings import Settings, SettingsError

DOCUMENTS_MAX = 10_000
"""A manifest may have this many documents."""
BYTES_MAX = 16 * 1024 * 1024
"""A manifest may have this many bytes."""
ID_LENGTH_MAX = 128
"""The id of a document may have this many characters."""


class TrustedDocuments:
    """The texts of trusted documents by id. If `only`, all other documents are rejected."""

    def __init__(self, texts: Mapping[str, str], *, only: bool) -> None:
        self.texts, self.only = dict(texts), only
        self.trusted = frozenset(self.texts.values())

    def find_text(self, id: str | None, query: str | None) -> str | None:
        """Returns the text of that id, else the sent text; None if it is not trusted."""
        if id is not None and (found := self.texts.get(id)) is not None:
            return found
        return query if query is not None and (not self.only or query in self.trusted) else None


def normalize(text: str) -> str:
    """Returns a document without comments and in one layout. Raises GraphQLError for a syntax error."""
    return print_ast(parse(text))


def document_id(text: str) -> str:
    """Returns the id of a normalized text."""
    return sha256(text.encode()).hexdigest()


def load(settings: Settings) -> TrustedDocuments | None:
    """Returns the documents of the manifest; None if trusted documents are off. Raises SettingsError if the manifest cannot be used."""
    if settings.documents == "off":
        return None
    path = Path(settings.documents_file)
    try:
        if path.stat().st_size > BYTES_MAX:
            raise SettingsError(f"QUANYU_DOCUMENTS_FILE={path} has more than {BYTES_MAX} bytes")
        texts = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except OSError as error:
        raise SettingsError(f"QUANYU_DOCUMENTS_FILE={path} cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise SettingsError(f"QUANYU_DOCUMENTS_FILE={path} must be a JSON object of id -> text: {error}") from None
    if len(texts) > DOCUMENTS_MAX:
        raise SettingsError(f"QUANYU_DOCUMENTS_FILE={path} has more than {DOCUMENTS_MAX} documents")
    for id in texts:
        if not 1 <= len(id) <= ID_LENGTH_MAX:
            raise SettingsError(f"QUANYU_DOCUMENTS_FILE={path}: ids have 1 to {ID_LENGTH_MAX} characters")
    return TrustedDocuments(texts, only=settings.documents == "only")


def build_manifest(paths: Iterable[Path]) -> dict[str, str]:
    """Returns the manifest of these files, and of the `.graphql` files in these folders. Raises ValueError for an invalid file."""
    texts = {}
    for path in paths:
        for file in sorted(path.rglob("*.graphql")) if path.is_dir() else [path]:
            try:
                text = normalize(file.read_text())
            except (GraphQLError, OSError, UnicodeDecodeError) as error:
                raise ValueError(f"{file}: {error}") from None
            texts[document_id(text)] = text
    return dict(sorted(texts.items()))


def main() -> None:
    """Prints the manifest of the given folders. Exits with status 2 and one line for each document that the gateway would reject."""
    from gateway.execution.executor import Executor
    from gateway.graph import schema

    try:
        texts = build_manifest(map(Path, sys.argv[1:]))
    except ValueError as error:
        sys.exit(_print_problems([str(error)]))
    executor = Executor(schema.build(), suggestions=True)
    problems = [
        f"{text.split('(')[0].split('{')[0].strip()}: {error.message}" for text in texts.values() for error in executor.prepare(text).errors
    ]
    if problems or not texts:
        sys.exit(_print_problems(problems or ["No documents found. Give the folders of the operations."]))
    sys.stdout.write(orjson.dumps(texts, option=orjson.OPT_INDENT_2).decode() + "\n")


def _print_problems(lines: list[str]) -> int:
    for line in lines:
        print(f"documents: {line}", file=sys.stderr)  # noqa: T201 - for the user of the command line
    return 2


if __name__ == "__main__":
    main()
