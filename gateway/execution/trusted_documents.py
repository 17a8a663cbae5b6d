"""Trusted documents: the operations that front ends are known to ask, each by the hash of its text.

    python -m gateway.execution.trusted_documents tests/stories/operations > documents.json

With QUANYU_DOCUMENTS=only the gateway takes nothing else. The manifest has the form of `relay-compiler`'s (id -> text); the id is the
SHA-256 of the text as graphql-core prints it, so that neither comments nor layout change it. A client sends the id as `documentId`, or as
Apollo's `extensions.persistedQuery.sha256Hash`; nothing that a client sends is added.
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
BYTES_MAX = 16 * 1024 * 1024
ID_LENGTH_MAX = 128


class Documents:
    """What may be asked by id. `only`: what is not here may not be asked at all."""

    def __init__(self, texts: Mapping[str, str], *, only: bool) -> None:
        self.texts, self.only = dict(texts), only
        self.trusted = frozenset(self.texts.values())

    def text(self, id: str | None, query: str | None) -> str | None:
        """The text to run: the one with that id, else what was sent; None when it is not trusted."""
        if id is not None and (found := self.texts.get(id)) is not None:
            return found
        return query if query is not None and (not self.only or query in self.trusted) else None


def normalised(text: str) -> str:
    """A document without comments and in one layout. GraphQLError when it is none."""
    return print_ast(parse(text))


def id_of(text: str) -> str:
    """The id of a normalised text."""
    return sha256(text.encode()).hexdigest()


def load(settings: Settings) -> Documents | None:
    """The manifest of the settings; None when trusted documents are off. SettingsError when it cannot be used."""
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
        raise SettingsError(f"QUANYU_DOCUMENTS_FILE={path} is no JSON of id -> text: {error}") from None
    if len(texts) > DOCUMENTS_MAX:
        raise SettingsError(f"QUANYU_DOCUMENTS_FILE={path} has more than {DOCUMENTS_MAX} documents")
    for id in texts:
        if not 1 <= len(id) <= ID_LENGTH_MAX:
            raise SettingsError(f"QUANYU_DOCUMENTS_FILE={path}: ids have 1 to {ID_LENGTH_MAX} characters")
    return Documents(texts, only=settings.documents == "only")


def manifest(paths: Iterable[Path]) -> dict[str, str]:
    """The manifest of these files, and of the `.graphql` files in these folders. ValueError names the file that is no document."""
    texts = {}
    for path in paths:
        for file in sorted(path.rglob("*.graphql")) if path.is_dir() else [path]:
            try:
                text = normalised(file.read_text())
            except (GraphQLError, OSError, UnicodeDecodeError) as error:
                raise ValueError(f"{file}: {error}") from None
            texts[id_of(text)] = text
    return dict(sorted(texts.items()))


def main() -> None:
    """Prints the manifest of the folders named; status 2 and one line for each document that the gateway would not take."""
    from gateway.execution.executor import Executor
    from gateway.graph import schema

    try:
        texts = manifest(map(Path, sys.argv[1:]))
    except ValueError as error:
        sys.exit(_refused([str(error)]))
    executor = Executor(schema.build(), suggestions=True)
    wrong = [
        f"{text.split('(')[0].split('{')[0].strip()}: {error.message}" for text in texts.values() for error in executor.prepare(text).errors
    ]
    if wrong or not texts:
        sys.exit(_refused(wrong or ["name the folders of the operations"]))
    sys.stdout.write(orjson.dumps(texts, option=orjson.OPT_INDENT_2).decode() + "\n")


def _refused(lines: list[str]) -> int:
    for line in lines:
        print(f"documents: {line}", file=sys.stderr)  # noqa: T201 - for the person who calls it
    return 2


if __name__ == "__main__":
    main()
