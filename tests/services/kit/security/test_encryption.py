"""Tests of field encryption: keyed hashes, encryption, and rotation of keys."""

from base64 import b64encode

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from services.kit.security.encryption import FieldEncryption
from services.kit.settings import Settings, SettingsError

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()
OLD_HASH, NEW_HASH = b"o" * 32, b"n" * 32
BEFORE, AFTER = FieldEncryption([OLD], [OLD_HASH]), FieldEncryption([NEW, OLD], [NEW_HASH, OLD_HASH])


@given(st.text())
def test_ciphertext_is_readable_after_rotation(value: str) -> None:
    ciphertext = BEFORE.encrypt(value)
    assert BEFORE.decrypt(ciphertext) == AFTER.decrypt(ciphertext) == value
    assert not value or value.encode() not in ciphertext or len(value) < 4


def test_hash_from_before_rotation_is_found() -> None:
    stored = BEFORE.hash("phone", "+8613812345678")
    assert stored in AFTER.hash_with_all_keys("phone", "+8613812345678")
    assert AFTER.hash("phone", "+8613812345678") != stored


def test_hashes_of_kinds_differ() -> None:
    assert BEFORE.hash("phone", "1") != BEFORE.hash("card", "1")
    assert BEFORE.hash("a", "b\0c") != BEFORE.hash("a\0b", "d")


def test_missing_key_is_named() -> None:
    with pytest.raises(ValueError, match="QUANYU_SECRET_KEYS"):
        FieldEncryption([NEW], [NEW_HASH]).decrypt(BEFORE.encrypt("x"))


@pytest.mark.parametrize(
    ("secret_keys", "hash_keys"),
    [("", ""), ("x", b64encode(NEW_HASH).decode()), (NEW, "short"), (NEW, "")],
    ids=["no keys", "no secret key", "a short hash key", "no hash key"],
)
def test_malformed_keys_are_refused(secret_keys: str, hash_keys: str) -> None:
    with pytest.raises(SettingsError):
        FieldEncryption.from_settings(Settings(secret_keys=secret_keys, hash_keys=hash_keys))
