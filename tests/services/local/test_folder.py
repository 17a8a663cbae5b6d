"""The data folder: its version, its one user, and keys that only their owner reads."""

import stat
from pathlib import Path

import pytest
from msgspec.structs import replace

from services.kit.principals import Grant, Principal, Signer, Verifier
from services.kit.secrets import Secrets
from services.kit.settings import Settings
from services.local.errors import LocalError
from services.local.folder import Folder, Run
from services.local.keys import Keys, keys_of

RUN = Run(1, "http://127.0.0.1:8000", "mongodb://127.0.0.1/", "quanyu", [])


def test_keys_are_kept_and_private(tmp_path: Path) -> None:
    folder = Folder(tmp_path / ".quanyu")
    with folder.claim():
        first = keys_of(folder)
    assert stat.S_IMODE(folder.keys.stat().st_mode) == 0o600
    with folder.claim():
        assert keys_of(folder) == first == folder.read_keys(Keys)


def test_each_issuers_key_is_taken_by_the_others(tmp_path: Path) -> None:
    folder = Folder(tmp_path / ".quanyu")
    with folder.claim():
        keys = keys_of(folder)
    principal = Principal("gateway", (Grant("ROLE_CONSUMER", "SCOPE_KIND_CONSUMER", "con_1"),))
    token = Signer("gateway", keys.signing_setting("gateway")).token("member", principal)
    assert Verifier("member", keys.issuers_setting(), development=True).verify(token) == replace(principal, issuer="gateway")
    assert '"d"' not in keys.issuers_setting() + keys.tokens_setting()
    secrets = Secrets.of(Settings(secret_keys=keys.secret_key, hash_keys=keys.hash_key))
    assert secrets.decrypt(secrets.encrypt("138 0013 8000")) == "138 0013 8000"


def test_a_second_user_is_refused_and_the_first_named(tmp_path: Path) -> None:
    folder = Folder(tmp_path / ".quanyu")
    with folder.claim(), pytest.raises(LocalError, match=r"another `quanyu up` \(process \d+\)"), Folder(folder.path).claim():
        pass


def test_another_version_is_refused(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    (tmp_path / "version").write_text("99\n")
    with pytest.raises(LocalError, match="version 99, this Quanyu reads version 1"), folder.claim():
        pass


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(LocalError, match="is not empty and no data folder"), Folder(tmp_path).claim():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_running_suite_is_found_only_while_it_runs(tmp_path: Path) -> None:
    folder = Folder(tmp_path / ".quanyu")
    with pytest.raises(LocalError, match="no suite runs"):
        folder.running()
    with folder.claim():
        with pytest.raises(LocalError, match="just starting"):
            folder.running()
        folder.write(folder.run, RUN)
        assert folder.running() == RUN
    folder.write(folder.run, RUN)  # as if it had been killed
    with pytest.raises(LocalError, match="no suite runs"):
        folder.running()
