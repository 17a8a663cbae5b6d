"""What is on disk of an identity provider's keys when they cannot be kept."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.keyfile import KeyFile

KEYS = [{"kty": "RSA", "kid": "one"}]
Breaking = Callable[[KeyFile, pytest.MonkeyPatch], None]


def in_the_way(file: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    assert file.path is not None
    file.path.mkdir(parents=True)


def full(file: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("broken", [in_the_way, full])
def test_what_could_not_be_kept_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Breaking) -> None:
    file = KeyFile(str(tmp_path / "keys"), "https://id.example", "https://id.example/jwks")
    with monkeypatch.context() as patch:
        broken(file, patch)
        for _ in range(3):
            file.keep(KEYS, 0)
        assert list((tmp_path / "keys").glob("*.new")) == []
    if broken is full:
        file.keep(KEYS, 0)
        assert file.kept()[0] == KEYS
