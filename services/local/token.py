"""`quanyu token`: a development bearer token for the gateway."""

import os
import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import click
from joserfc import jwt
from joserfc.jwk import OKPKey

from services.kit import settings as kit_settings
from services.kit.principals import ALGORITHM
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
    """HH:MM as minutes since midnight."""
    if value is None:
        return None
    try:
        at = datetime.strptime(value, "%H:%M")  # noqa: DTZ007 (a time of day, of no date and zone)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no time of day like 21:40") from None
    return at.hour * 60 + at.minute


def time_zone(context: click.Context, parameter: click.Parameter, value: str) -> ZoneInfo:
    """An IANA time zone by its name."""
    try:
        return ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise click.BadParameter(f"{value!r} is no time zone like {ZONE}") from None


@click.command()
@data_option
@click.option("--consumer", metavar="ID", help="As this consumer (con_…).")
@click.option("--staff", metavar="ID", help="As this member of staff (stf_…).")
@click.option("--operator", is_flag=True, help="As the operator of the installation.")
@click.option("--subject", metavar="SUB", help="As any other subject the gateway knows.")
@click.option("--at", "local_minute", metavar="HH:MM", callback=minute_of_day, help="As if it were the next time it is HH:MM.")
@click.option("--zone", callback=time_zone, default=ZONE, show_default=True, help="The time zone of --at.")
@click.option("--lifetime", type=click.IntRange(1, LIFETIME_SECONDS_MAX), default=LIFETIME_SECONDS, show_default=True, help="In seconds.")
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
    """Prints a bearer token of the local issuer: `curl -H "Authorization: Bearer $(quanyu token --operator)" …`."""
    if kit_settings.load(os.environ).env == "production":
        raise LocalError("QUANYU_ENV is production, where no development token is taken; get one from your identity provider")
    subjects = [chosen for chosen in (consumer, staff, "operator" if operator else None, subject) if chosen]
    if len(subjects) != 1:
        raise click.UsageError("name exactly one of --consumer, --staff, --operator and --subject")
    for given, prefix in ((consumer, "con_"), (staff, "stf_")):
        if given and not given.startswith(prefix):
            raise click.UsageError(f"{given} is no id of that kind: it starts with {prefix}")
    offset = clock_offset(local_minute, zone, datetime.now(UTC)) if local_minute is not None else 0.0
    click.echo(bearer(folder.read_keys(Keys).tokens, subjects[0], lifetime_seconds=lifetime, clock_offset=offset))


def bearer(key: Jwk, subject: str, *, lifetime_seconds: int = LIFETIME_SECONDS, clock_offset: float = 0.0) -> str:
    """A signed token for `subject`; `clock_offset` seconds move its clock (the gateway takes that in development only)."""
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
    """Seconds from `at` to the next time it is that minute of the day in `zone`; 0 while it is that minute."""
    local = at.astimezone(zone)
    for days in (0, 1):
        day = local.date() + timedelta(days=days)
        then = datetime(day.year, day.month, day.day, *divmod(local_minute, 60), tzinfo=zone)
        seconds = then.timestamp() - at.timestamp()
        if seconds > -60:
            return max(0.0, seconds)
    raise AssertionError("tomorrow's minute lies ahead")
