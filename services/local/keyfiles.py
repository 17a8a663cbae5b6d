"""`quanyu keys`: the keys of a deployment as one file of settings per process, for docker compose, Kubernetes secrets or a vault."""

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
@click.option("--production", is_flag=True, help="Fresh keys that no `quanyu token` can use.")
def keys(out: Path, folder: Folder, production: bool) -> None:
    """Writes OUT/<process>.env for the four services and the gateway. Nothing that stands there is overwritten.

    Without --production they hold the data folder's development keys, so that `quanyu token` works with that deployment too.
    """
    if production:
        write(out, for_production(new_keys()), production=True)
    else:
        with folder.claim():
            write(out, keys_of(folder), production=False)
    click.echo(
        f"{out}: {', '.join(f'{name}.env' for name in (*SERVICES, 'gateway'))}. Keep them secret, and keep them: personal data needs them."
    )


def for_production(made: Keys) -> Keys:
    """Without the issuer as which the command calls services on a developer's machine."""
    return msgspec.structs.replace(made, issuers={name: key for name, key in made.issuers.items() if name != LOCAL})


def write(out: Path, made: Keys, *, production: bool) -> None:
    """One file per process, readable by the owner only."""
    paths = {name: out / f"{name}.env" for name in (*SERVICES, "gateway")}
    if standing := next((path for path in paths.values() if path.exists()), None):
        raise LocalError(f"{standing} exists; without its keys what they encrypted is lost, so move it away yourself if you mean it")
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, path in paths.items():
        values = made.settings_of(name)
        if production:
            values.pop("token_keys", None)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "w") as file:
            file.writelines(f"{PREFIX}{setting.upper()}={value}\n" for setting, value in values.items())
