"""Field encryption: personal data is stored encrypted and found by a keyed hash; the keys come from the settings and rotate.

The first key of each list is the current one. A value that was hashed or encrypted with an older key is found and read until the
key leaves the settings.
"""

import hashlib
import hmac
from base64 import b64decode

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from services.kit.settings import Settings, SettingsError

HASH_KEY_BYTES = 32
"""The key of a look-up hash has this many bytes."""


class FieldEncryption:
    """Hashes for look-up (HMAC-SHA256, hex) and encryption (Fernet: AES-128-CBC with HMAC)."""

    def __init__(self, secret_keys: list[str], hash_keys: list[bytes]) -> None:
        self.fernet = MultiFernet([Fernet(key) for key in secret_keys])
        self.hash_keys = hash_keys

    @classmethod
    def from_settings(cls, settings: Settings) -> "FieldEncryption":
        """Reads the keys of the settings; SettingsError if there are none or one is malformed."""
        try:
            hash_keys = [b64decode(key, validate=True) for key in settings.hash_keys.split(",") if key]
            if not hash_keys or any(len(key) != HASH_KEY_BYTES for key in hash_keys):
                raise ValueError
            return cls([key for key in settings.secret_keys.split(",") if key], hash_keys)
        except ValueError:
            raise SettingsError(
                "QUANYU_SECRET_KEYS or QUANYU_HASH_KEYS is not usable. "
                "Give comma-separated Fernet keys and comma-separated keys of 32 bytes in base64."
            ) from None

    def hash(self, kind: str, value: str) -> str:
        """Returns the look-up hash of a value with the current key. Values of different kinds have different hashes."""
        return self._hash(self.hash_keys[0], kind, value)

    def hash_with_all_keys(self, kind: str, value: str) -> list[str]:
        """Returns the hashes with all keys, newest first, which find a value while keys rotate."""
        return [self._hash(key, kind, value) for key in self.hash_keys]

    def encrypt(self, value: str) -> bytes:
        """Encrypts a value with the current key."""
        return self.fernet.encrypt(value.encode())

    def decrypt(self, ciphertext: bytes) -> str:
        """Decrypts a ciphertext; ValueError if no key of the settings decrypts it."""
        try:
            return self.fernet.decrypt(bytes(ciphertext)).decode()
        except InvalidToken:
            raise ValueError("No key of QUANYU_SECRET_KEYS decrypts this value. Restore the key that encrypted it.") from None

    @staticmethod
    def _hash(key: bytes, kind: str, value: str) -> str:
        return hmac.new(key, f"{kind}\0{value}".encode(), hashlib.sha256).hexdigest()
