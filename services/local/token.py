"""`quanyu token`: the command that prints a development bearer token."""

import os
import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import click
from joserfc import jwt
from joserfc.jwk import OKPKey

from services.kit import settings as kit_settings
from services.kit.security.principals import ALGORITHM
from services.local.errors import LocalError
from services.local.folder import Folder
from services.local.keys import Jwk, Keys
from services.local.options import data_option

ISSUER = "quanyu-local"
AUDIENCE = "quanyu"
LIFETIME_SECONDS = 3600
LIFETIME_SECONDS_MAX = 30 * 24 * 3600
ZONE = "Asia/Shanghai"


def minute_of_day(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Converts HH:MM to minutes since midnight."""
    if value is None:
        return None
    try:
        at = datetime.strptime(value, "%H:%M")  # noqa: DTZ007 (a time of day has no zone)
    except ValueError:
        raise click.BadParameter(f"{value!r} must be a time of day like 21:40") from None
    return at.hour * 60 + at.minute


def time_zone(context: click.Context, parameter: click.Parameter, value: str) -> ZoneInfo:
    """Converts the name of an IANA time zone."""
    try:
        return ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise click.BadParameter(f"{value!r} must be an IANA time zone like {ZONE}") from None


@click.command()
@data_option
@click.option("--consumer", metavar="ID", help="Token of this consumer (con_…).")
@click.option("--staff", metavar="ID", help="Token of this member of staff (stf_…).")
@click.option("--operator", is_flag=True, help="Token of the operator of the installation.")
@click.option("--subject", metavar="SUB", help="Token of any other subject.")
@click.option("--at", "local_minute", metavar="HH:MM", callback=minute_of_day, help="Move the clock of the token to the next HH:MM.")
@click.option("--zone", callback=time_zone, default=ZONE, show_default=True, help="The time zone of --at.")
@click.option(
    "--lifetime", type=click.IntRange(1, LIFETIME_SECONDS_MAX), default=LIFETIME_SECONDS, show_default=True, help="Lifetime in seconds."
)
def token(
    folder: Folder,
    consumer: str | None,
    staff: str | None,
    operator: bool,
    subject: str | None,
    local_minute: int | None,
    zone: ZoneInfo,
    lifetime: int,
) -> None:
    """Prints a bearer token of the local issuer, for `curl -H "Authorization: Bearer $(quanyu token --operator)" …`."""
    if kit_settings.load(os.environ).env == "production":
        raise LocalError("QUANYU_ENV is production, which accepts no development token. Get a token from your identity provider.")
    subjects = [chosen for chosen in (consumer, staff, "operator" if operator else None, subject) if chosen]
    if len(subjects) != 1:
        raise click.UsageError("Use exactly one of --consumer, --staff, --operator and --subject.")
    for given, prefix in ((consumer, "con_"), (staff, "stf_")):
        if given and not given.startswith(prefix):
            raise click.UsageError(f"{given} is not an id of this kind. It must start with {prefix}")
    offset = clock_offset(local_minute, zone, datetime.now(UTC)) if local_minute is not None else 0.0
    click.echo(bearer(folder.read_keys(Keys).tokens, subjects[0], lifetime_seconds=lifetime, clock_offset=offset))


def bearer(key: Jwk, subject: str, *, lifetime_seconds: int = LIFETIME_SECONDS, clock_offset: float = 0.0) -> str:
    """Returns a signed token of `subject`. `clock_offset` moves its clock by seconds, which the gateway accepts in development only."""
    issued_at = int(time.time())
    claims: dict[str, str | int | float] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "iat": issued_at,
        "exp": issued_at + lifetime_seconds,
    }
    if clock_offset:
        claims["clock_offset"] = clock_offset
    return jwt.encode({"alg": ALGORITHM, "kid": key["kid"]}, claims, OKPKey.import_key(key), algorithms=[ALGORITHM])


def clock_offset(local_minute: int, zone: ZoneInfo, at: datetime) -> float:
    """Returns the seconds from `at` to the next such minute of the day in `zone`; 0 during that minute."""
    local = at.astimezone(zone)
    for days in (0, 1):
        day = local.date() + timedelta(days=days)
        then = datetime(day.year, day.month, day.day, *divmod(local_minute, 60), tzinfo=zone)
        seconds = then.timestamp() - at.timestamp()
        if seconds > -60:
            return max(0.0, seconds)
    raise AssertionError("the minute of the next day is later than now")
