"""Development keys: made once per data folder and kept, so that tokens and personal data stay readable between runs."""

from base64 import b64encode
from collections.abc import Mapping
from secrets import token_bytes
from typing import Any

import msgspec
from cryptography.fernet import Fernet
from msgspec import Struct

from quanyu.access.v1 import access_pb2
from services.kit.principals import SERVICE, generate_key
from services.local.folder import Folder

SERVICES = ("member", "commerce", "district", "organization")
LOCAL = "local"
"""The issuer as which the command itself calls the services (demo, import)."""
OPERATOR = "ROLE_OPERATOR"
HASH_KEY_BYTES = 32

Jwk = dict[str, Any]


class Keys(Struct, frozen=True):
    """Private JWKs by issuer; the key of the local issuer of bearer tokens; the keys of personal data."""

    issuers: Mapping[str, Jwk]
    tokens: Jwk
    secret_key: str
    hash_key: str

    def settings_of(self, process: str) -> dict[str, str]:
        """The settings that only this process may know, and whom it trusts. The gateway gets no key of personal data."""
        own = {"signing_key": encoded(self.issuers[process]), "issuers": self.issuers_setting()}
        if process == "gateway":
            return own | {"token_keys": self.tokens_setting()}
        return own | {"secret_keys": self.secret_key, "hash_keys": self.hash_key}

    def issuers_setting(self) -> str:
        """QUANYU_ISSUERS: which issuer may assert which roles, with the public keys."""
        return msgspec.json.encode({name: {"keys": [public(key)], "roles": roles_of(name)} for name, key in self.issuers.items()}).decode()

    def signing_setting(self, issuer: str) -> str:
        """QUANYU_SIGNING_KEY of one process."""
        return encoded(self.issuers[issuer])

    def tokens_setting(self) -> str:
        """QUANYU_TOKEN_KEYS: the JWKS of the local issuer."""
        return encoded({"keys": [public(self.tokens)]})


def keys_of(folder: Folder) -> Keys:
    """The folder's keys, made on first use. The folder must be claimed."""
    if not folder.keys.exists():
        folder.write(folder.keys, new_keys())
    return folder.read_keys(Keys)


def new_keys() -> Keys:
    """Fresh keys of every kind."""
    return Keys(
        issuers={name: generate_key(f"{name}-1") for name in (*SERVICES, "gateway", LOCAL)},
        tokens=generate_key("quanyu-local-1"),
        secret_key=Fernet.generate_key().decode(),
        hash_key=b64encode(token_bytes(HASH_KEY_BYTES)).decode(),
    )


def roles_of(issuer: str) -> list[str]:
    """A service speaks as itself, the command as the operator too, the gateway for people of every role."""
    if issuer == "gateway":
        return [name for name, number in access_pb2.Role.items() if number]
    return [SERVICE, OPERATOR] if issuer == LOCAL else [SERVICE]


def public(key: Jwk) -> Jwk:
    """The JWK without its private part."""
    return {name: value for name, value in key.items() if name != "d"}


def encoded(value: object) -> str:
    """JSON on one line, as a setting holds it."""
    return msgspec.json.encode(value).decode()
