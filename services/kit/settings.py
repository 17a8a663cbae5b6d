"""Settings: one frozen struct per process, read from `QUANYU_*` variables. What is unknown or bad stops the start."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

PREFIX = "QUANYU_"

Address = Annotated[str, Meta(pattern=r"^[^\s:]+:\d{1,5}$", description="host:port")]
Seconds = Annotated[float, Meta(gt=0, le=3600)]
Bound = Annotated[int, Meta(ge=1, le=10_000_000)]
Rate = Annotated[float, Meta(ge=0, le=1_000_000)]
"""A second; 0: without bound."""


class SettingsError(Exception):
    """A `QUANYU_*` variable is unknown or has a value that cannot be used; the message is one line for a person."""


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Every setting of the suite. All processes read the same names, so that one ConfigMap serves them all."""

    env: Literal["development", "production"] = "development"
    mongo_uri: Annotated[str, Meta(pattern=r"^mongodb(\+srv)?://")] = "mongodb://127.0.0.1:27017/?replicaSet=rs0"
    mongo_driver: Literal["motor", "pymongo"] = "motor"
    database_prefix: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,30}$")] = "quanyu"
    mongo_timeout_seconds: Seconds = 10.0

    # On a laptop; from 32768 on a port may be lent to any connection just when it is wanted.
    member_address: Address = "127.0.0.1:8051"
    commerce_address: Address = "127.0.0.1:8052"
    district_address: Address = "127.0.0.1:8053"
    organization_address: Address = "127.0.0.1:8054"
    listen: Annotated[str, Meta(pattern=r"^$|^[^\s:]+:\d{1,5}$")] = ""
    gateway_listen: Address = "127.0.0.1:8000"
    metrics_listen: Annotated[str, Meta(pattern=r"^$|^[^\s:]+:\d{1,5}$")] = ""
    drain_seconds: Seconds = 10.0
    deadline_seconds: Seconds = 10.0
    streams_max: Bound = 2_000
    """Streaming rpcs that one process of a service has open."""
    streams_principal: Bound = 64
    """The same of one person or machine."""
    stream_seconds_max: Seconds = 60.0
    """How long one lasts: then its client comes again with its cursor, and is asked anew who it is and what it may see. A grant that is
    taken away is heard of for as long at most."""

    signing_key: str = ""
    """This process's private key, a JWK of type OKP with a `kid`; it signs the principals this process asserts."""
    issuers: str = "{}"
    """Who may assert what: JSON of issuer name -> {keys: [public JWK], roles: [ROLE_…]}."""
    token_keys: str = '{"keys": []}'
    """The JWKS of the local issuer whose bearer tokens the gateway takes (development only)."""
    oidc_issuers: str = "[]"
    """Whose bearer tokens the gateway takes: JSON list of {issuer, audience, jwks_uri, algorithms, people, operators}; all but the
    first two may be left out (`gateway/auth/oidc.py` says what they mean)."""
    secret_keys: str = ""
    """Comma-separated Fernet keys for personal data; the first encrypts, all decrypt."""
    hash_keys: str = ""
    """Comma-separated keys (32 bytes, base64) of the look-up hashes; the first writes, all are looked up."""
    webhook_secrets: str = "{}"
    """Whose notices (incoming webhooks) are believed: JSON of sender -> secrets that it shares with us, as `whsec_` and base64."""
    sandbox_payments: Literal["auto", "on", "off"] = "auto"
    """Whether orders may be paid with the sandbox, which takes no money; auto: in development only."""
    cors_origins: str = ""
    """Comma-separated origins that browsers may call the gateway from; empty: none; `*`: any."""
    trusted_proxies: str = "127.0.0.1"
    """Comma-separated addresses or networks whose `X-Forwarded-For` the gateway believes, to tell callers apart who are not signed in."""
    introspection: Literal["auto", "on", "off"] = "auto"
    """Whether the gateway tells its schema; auto: in development only."""
    documents: Literal["off", "also", "only"] = "off"
    """Trusted documents: none, those of `documents_file` beside any other, or no other."""
    documents_file: str = ""
    """What `quanyu documents` printed: JSON of id -> text."""
    rate_principal: Rate = 100.0
    """Operations a second of one person or machine, through one gateway process; twice as many at once."""
    rate_tenant: Rate = 1_000.0
    """The same of all who work for one tenant."""
    rate_address: Rate = 200.0
    """The same of one address, for those who are not signed in; also the messages a second that one WebSocket may say."""
    connections_address: Bound = 1_024
    """Connections of one address (of IPv6 its /64) to one gateway process; more are refused (503). Those of trusted proxies, which come
    for everybody, are not counted."""
    operations_max: Bound = 256
    """Operations that one gateway process has under way; more are sent away at once (503)."""
    sockets_max: Bound = 2_000
    """WebSockets that one gateway process has open; more are refused (503)."""
    subscriptions_max: Bound = 5_000
    """Subscriptions that one gateway process has open, over WebSockets and event streams."""
    subscriptions_principal: Bound = 50
    """The same of one person or machine, or of one address for those who are not signed in. They have as many WebSockets at most, and on
    each as many operations at once."""
    subscription_events: Bound = 100
    """Events that wait for a slow client before its subscription is ended."""
    limit_body_bytes: Bound = 256 * 1024
    """Of a request's body, and of a message over a WebSocket."""
    limit_variables: Bound = 5_000
    """Values within an operation's variables, lists and objects included."""
    limit_characters: Bound = 16_384
    """The length of a document. `gateway/limits/document.py` describes this and the following limits."""
    limit_tokens: Bound = 1_000
    limit_fragments: Bound = 50
    limit_operations: Bound = 10
    limit_depth: Bound = 12
    limit_fields: Bound = 500
    limit_repeats: Bound = 25
    limit_roots: Bound = 20
    limit_aliases: Bound = 30
    limit_directives: Bound = 30
    limit_spreads: Bound = 100
    limit_introspected: Bound = 250
    limit_introspection_depth: Bound = 16
    limit_cost: Bound = 150_000
    """Points: one for each value of an answer and 500 for each rpc, at most."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "json"

    @property
    def origins(self) -> frozenset[str]:
        """Those of `cors_origins`."""
        return frozenset(origin.strip() for origin in self.cors_origins.split(",")) - {""}


def load(environ: Mapping[str, str]) -> Settings:
    """The settings named in `environ`; SettingsError names the variable, what is wrong and what is expected."""
    given = {name.removeprefix(PREFIX).lower(): value for name, value in environ.items() if name.startswith(PREFIX)}
    # Variables of the tests are not settings of a process.
    given = {name: value for name, value in given.items() if not name.startswith("test_")}
    known = {field.name for field in msgspec.structs.fields(Settings)}
    if unknown := sorted(given.keys() - known):
        raise SettingsError(f"unknown setting {PREFIX}{unknown[0].upper()}; see the README for the names")
    for name, value in given.items():
        try:
            msgspec.convert({name: value}, Settings, strict=False)
        except msgspec.ValidationError as error:
            shown = value if name in PRINTABLE else "(value withheld)"
            raise SettingsError(f"{PREFIX}{name.upper()}={shown}: {str(error).split(' - at ')[0]}") from None
    return msgspec.convert(given, Settings, strict=False)


# Never repeat a key or a URI with a password in an error.
PRINTABLE = {field.name for field in msgspec.structs.fields(Settings)} - {
    "mongo_uri",
    "signing_key",
    "secret_keys",
    "hash_keys",
    "issuers",
    "token_keys",
    "webhook_secrets",
}
