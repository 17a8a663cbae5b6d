"""Settings: one frozen struct per process, read from `QUANYU_*` variables. An unknown or invalid variable stops the start."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

PREFIX = "QUANYU_"

Address = Annotated[str, Meta(pattern=r"^[^\s:]+:\d{1,5}$", description="host:port")]
Seconds = Annotated[float, Meta(gt=0, le=3600)]
Bound = Annotated[int, Meta(ge=1, le=10_000_000)]
Rate = Annotated[float, Meta(ge=0, le=1_000_000)]
"""A rate per second; 0 means without a limit."""


class SettingsError(Exception):
    """A `QUANYU_*` variable is unknown or invalid; the message is one line for the operator."""


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of the suite. All processes read the same variables, so that one ConfigMap serves them all."""

    env: Literal["development", "production"] = "development"
    mongo_uri: Annotated[str, Meta(pattern=r"^mongodb(\+srv)?://")] = "mongodb://127.0.0.1:27017/?replicaSet=rs0"
    mongo_driver: Literal["motor", "pymongo"] = "motor"
    database_prefix: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,30}$")] = "quanyu"
    mongo_timeout_seconds: Seconds = 10.0

    # Defaults for one machine. Ports from 32768 on are ephemeral: the system may have given one to another connection.
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
    """A process of a service has at most this many open streaming rpcs."""
    streams_principal: Bound = 64
    """A principal has at most this many open streaming rpcs in one process."""
    stream_seconds_max: Seconds = 60.0
    """A streaming rpc ends after this long. Its client calls again with its cursor and is authorized again, so that a revoked grant is
    effective after this time at the latest."""

    signing_key: str = ""
    """The private key of this process, a JWK of type OKP with a `kid`. It signs the principals that this process asserts."""
    issuers: str = "{}"
    """The issuers of principals and the roles they may assert: JSON of issuer name -> {keys: [public JWK], roles: [ROLE_…]}."""
    token_keys: str = '{"keys": []}'
    """The JWKS of the local issuer of bearer tokens for the gateway (development only)."""
    oidc_issuers: str = "[]"
    """The issuers of bearer tokens for the gateway: a JSON list of {issuer, audience, jwks_uri, algorithms, people, operators}.
    Only the first two are required; `gateway/auth/oidc.py` describes all."""
    secret_keys: str = ""
    """Comma-separated Fernet keys for personal data. The first one encrypts, all decrypt."""
    hash_keys: str = ""
    """Comma-separated keys (32 bytes in base64) of look-up hashes. New hashes use the first one, look-ups use all."""
    webhook_secrets: str = "{}"
    """The senders of incoming webhooks and their secrets: JSON of sender -> list of `whsec_` and base64."""
    sandbox_payments: Literal["auto", "on", "off"] = "auto"
    """Permits payments with the sandbox, which takes no money; auto permits them in development only."""
    cors_origins: str = ""
    """Comma-separated origins from which browsers may call the gateway; empty permits none, `*` permits all."""
    trusted_proxies: str = "127.0.0.1"
    """Comma-separated addresses or networks of proxies whose `X-Forwarded-For` the gateway trusts to find the address of a client."""
    introspection: Literal["auto", "on", "off"] = "auto"
    """Permits introspection of the schema; auto permits it in development only."""
    documents: Literal["off", "also", "only"] = "off"
    """Trusted documents: `off` ignores them, `also` permits them beside other documents, `only` permits no others."""
    documents_file: str = ""
    """The file with the trusted documents, as `quanyu documents` prints it: JSON of id -> text."""
    rate_principal: Rate = 100.0
    """A principal may run this many operations per second in one gateway process, and twice as many in a burst."""
    rate_tenant: Rate = 1_000.0
    """All principals of one tenant together may run this many operations per second in one gateway process."""
    rate_address: Rate = 200.0
    """Anonymous clients of one address may run this many operations per second; a WebSocket may send as many messages per second."""
    connections_address: Bound = 1_024
    """An address (for IPv6 its /64) may have this many connections to one gateway process; more are refused (503). Connections of
    trusted proxies do not count."""
    operations_max: Bound = 256
    """A gateway process runs at most this many concurrent operations; more are refused at once (503)."""
    sockets_max: Bound = 2_000
    """A gateway process has at most this many open WebSockets; more are refused (503)."""
    subscriptions_max: Bound = 5_000
    """A gateway process has at most this many open subscriptions over WebSockets and event streams."""
    subscriptions_principal: Bound = 50
    """A principal, or the anonymous clients of one address, may have this many open subscriptions. They may also have as many
    WebSockets, and on each as many concurrent operations."""
    subscription_events: Bound = 100
    """A subscription ends if more than this many events wait for its client."""
    limit_body_bytes: Bound = 256 * 1024
    """The body of a request, or a message over a WebSocket, has at most this many bytes."""
    limit_variables: Bound = 5_000
    """The variables of an operation have at most this many values, including lists and objects."""
    limit_characters: Bound = 16_384
    """A document has at most this many characters. `gateway/limits/document.py` describes this and the following limits."""
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
    """An operation costs at most this many points: one for each value of the largest possible response, and 500 for each rpc."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "json"

    @property
    def origins(self) -> frozenset[str]:
        """The origins of `cors_origins`."""
        return frozenset(origin.strip() for origin in self.cors_origins.split(",")) - {""}


def load(environ: Mapping[str, str]) -> Settings:
    """Reads the settings from `environ`; SettingsError names the variable, the error and what is expected."""
    values = {name.removeprefix(PREFIX).lower(): value for name, value in environ.items() if name.startswith(PREFIX)}
    # Variables of the tests are not settings of a process.
    values = {name: value for name, value in values.items() if not name.startswith("test_")}
    known = {field.name for field in msgspec.structs.fields(Settings)}
    if unknown := sorted(values.keys() - known):
        raise SettingsError(f"Unknown setting {PREFIX}{unknown[0].upper()}. The README lists all settings.")
    for name, value in values.items():
        try:
            msgspec.convert({name: value}, Settings, strict=False)
        except msgspec.ValidationError as error:
            shown = value if name in PRINTABLE else "(value withheld)"
            raise SettingsError(f"{PREFIX}{name.upper()}={shown}: {str(error).split(' - at ')[0]}") from None
    return msgspec.convert(values, Settings, strict=False)


PRINTABLE = {field.name for field in msgspec.structs.fields(Settings)} - {
    "mongo_uri",
    "signing_key",
    "secret_keys",
    "hash_keys",
    "issuers",
    "token_keys",
    "webhook_secrets",
}
"""An error may repeat the values of these settings; the others may contain keys or passwords."""
