"""What the suite consists of on one machine: its processes, their addresses and the environment of each."""

import sys
from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec
from msgspec import Struct

from services.kit.settings import PREFIX, Settings
from services.local.errors import LocalError
from services.local.keys import SERVICES, Keys
from services.local.mongod import free_port, port_is_free

MADE_HERE = ("listen", "signing_key", "issuers", "token_keys")
"""Settings that `quanyu up` gives each process itself."""
PERSONAL = ("secret_keys", "hash_keys")
"""Settings that only the services get, and that the caller's environment may bring along."""

LISTENING = (*(f"{service}_address" for service in SERVICES), "gateway_listen")
PORT_MAX = 65535


class Process(Struct, frozen=True):
    """One process: how to start it, where it answers (host:port) and how it says that it is ready."""

    name: str
    command: tuple[str, ...]
    address: str
    environment: Mapping[str, str]
    ready_by: Literal["grpc", "http"] = "grpc"


Stages = tuple[tuple[Process, ...], ...]
"""Processes by order of start: a stage starts when all of the stage before are ready."""


def resolve(settings: Settings, port: int | None) -> Settings:
    """The settings with `port` for the gateway, and a free port wherever one is 0. `LocalError` names a port that cannot be had."""
    if settings.env == "production":
        raise LocalError("`quanyu up` runs a development suite and QUANYU_ENV is production; see k8s/ for deploying")
    for name in MADE_HERE:
        if getattr(settings, name) != getattr(Settings(), name):
            raise LocalError(f"{PREFIX}{name.upper()} is made by `quanyu up` itself; unset it")
    if port is not None:
        host = settings.gateway_listen.rpartition(":")[0]
        settings = msgspec.structs.replace(settings, gateway_listen=f"{host}:{port}")
    named = {getattr(settings, name).rpartition(":")[2] for name in LISTENING}
    changes = {}
    for name in LISTENING:
        host, _, text = getattr(settings, name).rpartition(":")
        if int(text) == 0:
            while (chosen := str(free_port())) in named:
                pass
            named.add(chosen)
            changes[name] = f"{host}:{chosen}"
    settings = msgspec.structs.replace(settings, **changes)
    _check_ports(settings)
    return settings


def _check_ports(settings: Settings) -> None:
    """`LocalError` for the first port that cannot be listened on: it is none, is in use, or is wanted twice."""
    wanted: dict[int, str] = {}
    for name, port in _ports(settings):
        variable = PREFIX + name.upper()
        metrics = f" (it names the first of {len(LISTENING)}, one for each process)" if name == "metrics_listen" else ""
        if not 0 < port <= PORT_MAX:
            raise LocalError(f"{variable}: there is no port {port}{metrics}")
        if port in wanted:
            raise LocalError(f"port {port} is wanted twice, by {wanted[port]} and {variable}{metrics}; change one of them")
        if not port_is_free(port):
            instead = " (or --port)" if name == "gateway_listen" else metrics
            raise LocalError(f"port {port} is in use; choose another by {variable}{instead}, or end what listens there")
        wanted[port] = variable


def _ports(settings: Settings) -> Iterator[tuple[str, int]]:
    """Each port that a process will listen on, with the setting it comes from."""
    for name in LISTENING:
        yield name, int(getattr(settings, name).rpartition(":")[2])
    if settings.metrics_listen:
        for ahead in range(len(LISTENING)):
            yield "metrics_listen", int(_shifted(settings.metrics_listen, ahead).rpartition(":")[2])


def stages(settings: Settings, keys: Keys) -> Stages:
    """The four services, then the gateway. `settings.mongo_uri` is where MongoDB stands."""
    return (
        tuple(
            _process(settings, keys, name, f"services.{name}", getattr(settings, f"{name}_address"), ahead)
            for ahead, name in enumerate(SERVICES, 1)
        ),
        (_process(settings, keys, "gateway", "gateway", settings.gateway_listen, 0),),
    )


def base_url(settings: Settings) -> str:
    """Where a browser on this machine finds the gateway."""
    host, _, port = settings.gateway_listen.rpartition(":")
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"


def _process(settings: Settings, keys: Keys, name: str, module: str, address: str, ahead: int) -> Process:
    gateway = name == "gateway"
    made = keys.settings_of(name)
    kept = {each: value for each in PERSONAL if not gateway and (value := getattr(settings, each))}
    dropped = {each: "" for each in PERSONAL if gateway}
    own = msgspec.structs.replace(
        settings,
        **{**made, **kept, **dropped},
        listen="" if gateway else address,
        metrics_listen=_shifted(settings.metrics_listen, ahead),
        log_format="json",
    )
    # -P: a folder `gateway` where the command is called must not be taken for ours.
    command = (sys.executable, "-P", "-m", module)
    return Process(name, command, address, environment(own), "http" if gateway else "grpc")


def _shifted(listen: str, ahead: int) -> str:
    """The gateway takes the port named, the services the ones after it: five processes cannot share one."""
    host, _, port = listen.rpartition(":")
    return f"{host}:{int(port) + ahead}" if listen else ""


def environment(settings: Settings) -> dict[str, str]:
    """The `QUANYU_*` variables from which `kit.settings.load` reads these settings again; defaults are left out."""
    defaults = Settings()
    values = {field.name: getattr(settings, field.name) for field in msgspec.structs.fields(Settings)}
    return {PREFIX + name.upper(): str(value) for name, value in values.items() if value != getattr(defaults, name)}
