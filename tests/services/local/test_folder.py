"""Data folder: its format version, its lock, and keys that only the owner can read."""

import stat
from pathlib import Path

import pytest
from msgspec.structs import replace

from services.kit.security.encryption import FieldEncryption
from services.kit.security.principals import Grant, Principal, Signer, Verifier
from services.kit.settings import Settings
from services.local.errors import LocalError
from services.local.folder import VERSION, Folder, Run
from services.local.keys import Keys, keys_of

RUN = Run(1, "http://127.0.0.1:8000", "mongodb://127.0.0.1/", "quanyu", [])


def test_keys_are_stored_once_with_private_mode(tmp_path: Path) -> None:
    folder = Folder(tmp_path / ".quanyu")
    with folder.claim():
        first = keys_of(folder)
    assert stat.S_IMODE(folder.keys.stat().st_mode) == 0o600
    with folder.claim():
        assert keys_of(folder) == first == folder.read_keys(Keys)


def test_token_of_gateway_is_verified_by_service(tmp_path: Path) -> None:
    folder = Folder(tmp_path / ".quanyu")
    with folder.claim():
        keys = keys_of(folder)
    principal = Principal("gateway", (Grant("ROLE_CONSUMER", "SCOPE_KIND_CONSUMER", "con_1"),))
    token = Signer("gateway", keys.signing_setting("gateway")).sign("member", principal)
    assert Verifier("member", keys.issuers_setting(), development=True).verify(token) == replace(principal, issuer="gateway")
    assert '"d"' not in keys.issuers_setting() + keys.tokens_setting()
    secrets = FieldEncryption.from_settings(Settings(secret_keys=keys.secret_key, hash_keys=keys.hash_key))
    assert secrets.decrypt(secrets.encrypt("138 0013 8000")) == "138 0013 8000"


def test_claim_of_locked_folder_names_holder(tmp_path: Path) -> None:
    folder = Folder(tmp_path / ".quanyu")
    with folder.claim(), pytest.raises(LocalError, match=r"Another `quanyu up` \(process \d+\)"), Folder(folder.path).claim():
        pass


@pytest.mark.parametrize(
    ("version", "remedy"),
    [("1", r"Delete the folder or start with --data OTHER\."), ("99", r"Use that version or start with --data OTHER\.")],
)
def test_claim_of_other_format_names_remedy(tmp_path: Path, version: str, remedy: str) -> None:
    (tmp_path / "version").write_text(f"{version}\n")
    message = f"has format {version}, but this version of Quanyu reads format {VERSION}. {remedy}"
    with pytest.raises(LocalError, match=message), Folder(tmp_path).claim():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["version"]


def test_claim_of_new_folder_writes_version(tmp_path: Path) -> None:
    with Folder(tmp_path / "data").claim():
        pass
    assert (tmp_path / "data" / "version").read_text() == f"{VERSION}\n"


def test_claim_of_foreign_folder_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(LocalError, match="holds other files and is not a data folder"), Folder(tmp_path).claim():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_running_finds_suite_only_while_locked(tmp_path: Path) -> None:
    folder = Folder(tmp_path / ".quanyu")
    with pytest.raises(LocalError, match="No suite runs"):
        folder.running()
    with folder.claim():
        with pytest.raises(LocalError, match="still starting"):
            folder.running()
        folder.write(folder.run, RUN)
        assert folder.running() == RUN
    folder.write(folder.run, RUN)  # as after a kill
    with pytest.raises(LocalError, match="No suite runs"):
        folder.running()
