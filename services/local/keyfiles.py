"""`quanyu keys`: the command that writes one settings file of keys per process, for docker compose, Kubernetes or a vault."""

import os
from pathlib import Path

import click
import msgspec

from services.kit.settings import PREFIX
from services.local.errors import LocalError
from services.local.folder import PRIVATE, Folder
from services.local.keys import LOCAL, SERVICES, Keys, keys_of, new_keys
from services.local.options import data_option


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@data_option
@click.option("--production", is_flag=True, help="Create new keys, which `quanyu token` cannot use.")
def keys(out: Path, folder: Folder, production: bool) -> None:
    """Writes OUT/<process>.env for the four services and the gateway. Existing files are not overwritten.

    Without --production the files hold the development keys of the data folder, so that `quanyu token` works with the deployment.
    """
    if production:
        write(out, for_production(new_keys()), production=True)
    else:
        with folder.claim():
            write(out, keys_of(folder), production=False)
    click.echo(f"Wrote {', '.join(f'{name}.env' for name in (*SERVICES, 'gateway'))} to {out}. Keep them: only they decrypt personal data.")


def for_production(keys: Keys) -> Keys:
    """Returns the keys without the local issuer, as which the command calls services in development."""
    return msgspec.structs.replace(keys, issuers={name: key for name, key in keys.issuers.items() if name != LOCAL})


def write(out: Path, keys: Keys, *, production: bool) -> None:
    """Writes one file per process, readable by the owner only; raises `LocalError` if one exists."""
    paths = {name: out / f"{name}.env" for name in (*SERVICES, "gateway")}
    if existing := next((path for path in paths.values() if path.exists()), None):
        raise LocalError(f"{existing} exists and is kept, since its keys may be in use. Move it away, or choose another OUT.")
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, path in paths.items():
        values = keys.settings_of(name)
        if production:
            values.pop("token_keys", None)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "w") as file:
            file.writelines(f"{PREFIX}{setting.upper()}={value}\n" for setting, value in values.items())
