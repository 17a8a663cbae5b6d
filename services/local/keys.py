"""Development keys: created once per data folder and kept, so that tokens and personal data stay valid between runs."""

from base64 import b64encode
from collections.abc import Mapping
from secrets import token_bytes
from typing import Any

import msgspec
from cryptography.fernet import Fernet
from msgspec import Struct

from quanyu.access.v1 import access_pb2
from services.kit.security.principals import SERVICE, generate_key
from services.local.folder import Folder

SERVICES = ("member", "commerce", "district", "organization")
LOCAL = "local"
"""The issuer as which the command calls the services, for example to import."""
OPERATOR = "ROLE_OPERATOR"
HASH_KEY_BYTES = 32

Jwk = dict[str, Any]


class Keys(Struct, frozen=True):
    """Private JWKs by issuer, the signing key of bearer tokens, and the keys of personal data."""

    issuers: Mapping[str, Jwk]
    tokens: Jwk
    secret_key: str
    hash_key: str

    def settings_of(self, process: str) -> dict[str, str]:
        """Returns the secret settings of one process and its trusted issuers. The gateway gets no key of personal data."""
        own = {"signing_key": encoded(self.issuers[process]), "issuers": self.issuers_setting()}
        if process == "gateway":
            return own | {"token_keys": self.tokens_setting()}
        return own | {"secret_keys": self.secret_key, "hash_keys": self.hash_key}

    def issuers_setting(self) -> str:
        """Returns QUANYU_ISSUERS: the public keys of each issuer and the roles it may assert."""
        return msgspec.json.encode({name: {"keys": [public(key)], "roles": roles_of(name)} for name, key in self.issuers.items()}).decode()

    def signing_setting(self, issuer: str) -> str:
        """Returns QUANYU_SIGNING_KEY of one process."""
        return encoded(self.issuers[issuer])

    def tokens_setting(self) -> str:
        """Returns QUANYU_TOKEN_KEYS: the JWKS of the local issuer."""
        return encoded({"keys": [public(self.tokens)]})


def keys_of(folder: Folder) -> Keys:
    """Returns the folder's keys, created on first use. The folder must be claimed."""
    if not folder.keys.exists():
        folder.write(folder.keys, new_keys())
    return folder.read_keys(Keys)


def new_keys() -> Keys:
    """Creates keys of every kind."""
    return Keys(
        issuers={name: generate_key(f"{name}-1") for name in (*SERVICES, "gateway", LOCAL)},
        tokens=generate_key("quanyu-local-1"),
        secret_key=Fernet.generate_key().decode(),
        hash_key=b64encode(token_bytes(HASH_KEY_BYTES)).decode(),
    )


def roles_of(issuer: str) -> list[str]:
    """Returns the roles an issuer may assert: a service its own, the command also the operator's, the gateway every role."""
    if issuer == "gateway":
        return [name for name, number in access_pb2.Role.items() if number]
    return [SERVICE, OPERATOR] if issuer == LOCAL else [SERVICE]


def public(key: Jwk) -> Jwk:
    """Returns the JWK without its private part."""
    return {name: value for name, value in key.items() if name != "d"}


def encoded(value: object) -> str:
    """Returns JSON on one line, the format of a setting."""
    return msgspec.json.encode(value).decode()
