"""Personal data: looked up by keyed hash, kept encrypted; keys come from the settings and rotate.

The first key of each list is the current one. A value hashed or encrypted under an older key is still found and read, until the
key is taken out of the settings.
"""

import hashlib
import hmac
from base64 import b64decode

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from services.kit.settings import Settings, SettingsError

HASH_KEY_BYTES = 32


class FieldEncryption:
    """Hashes for look-up (HMAC-SHA256, hex) and encryption (Fernet: AES-128-CBC with HMAC)."""

    def __init__(self, secret_keys: list[str], hash_keys: list[bytes]) -> None:
        self.fernet = MultiFernet([Fernet(key) for key in secret_keys])
        self.hash_keys = hash_keys

    @classmethod
    def of(cls, settings: Settings) -> "FieldEncryption":
        """The keys of the settings; SettingsError when there are none or they are malformed."""
        try:
            hash_keys = [b64decode(key, validate=True) for key in settings.hash_keys.split(",") if key]
            if not hash_keys or any(len(key) != HASH_KEY_BYTES for key in hash_keys):
                raise ValueError
            return cls([key for key in settings.secret_keys.split(",") if key], hash_keys)
        except ValueError:
            raise SettingsError("QUANYU_SECRET_KEYS takes Fernet keys, QUANYU_HASH_KEYS 32 bytes in base64 each, comma-separated") from None

    def hash(self, kind: str, value: str) -> str:
        """The look-up hash of a value under the current key. Different kinds never collide."""
        return self._hash(self.hash_keys[0], kind, value)

    def hashes(self, kind: str, value: str) -> list[str]:
        """The hashes under all keys, newest first, to look a value up by while keys rotate."""
        return [self._hash(key, kind, value) for key in self.hash_keys]

    def encrypt(self, value: str) -> bytes:
        """The value as ciphertext under the current key."""
        return self.fernet.encrypt(value.encode())

    def decrypt(self, ciphertext: bytes) -> str:
        """The value again; ValueError when no key of the settings opens it."""
        try:
            return self.fernet.decrypt(bytes(ciphertext)).decode()
        except InvalidToken:
            raise ValueError("no key of QUANYU_SECRET_KEYS opens this value") from None

    @staticmethod
    def _hash(key: bytes, kind: str, value: str) -> str:
        return hmac.new(key, f"{kind}\0{value}".encode(), hashlib.sha256).hexdigest()
