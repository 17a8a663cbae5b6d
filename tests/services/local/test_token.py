"""Development tokens: what they say, for whom, and how far they move a clock."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import KeySet
from msgspec import json

from services.local.cli import main
from services.local.folder import Folder
from services.local.keys import keys_of
from services.local.token import clock_offset

SHANGHAI = ZoneInfo("Asia/Shanghai")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / ".quanyu")
    with folder.claim():
        keys_of(folder)
    return folder


def ask(folder: Folder, *arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(main, ["token", "--data", str(folder.path), *arguments], env=environ)


def claims(folder: Folder, token: str) -> dict[str, Any]:
    with folder.claim():
        known = KeySet.import_key_set(json.decode(keys_of(folder).tokens_setting()))
    return jwt.decode(token.strip(), known, algorithms=["Ed25519"]).claims


@pytest.mark.parametrize(
    ("arguments", "subject"),
    [
        (["--consumer", "con_1"], "con_1"),
        (["--staff", "stf_1"], "stf_1"),
        (["--operator"], "operator"),
        (["--subject", "auth0|7"], "auth0|7"),
    ],
)
def test_a_token_says_who(folder: Folder, arguments: list[str], subject: str) -> None:
    answer = ask(folder, *arguments)
    said = claims(folder, answer.stdout)
    assert (said["iss"], said["aud"], said["sub"]) == ("quanyu-local", "quanyu", subject)
    assert said["exp"] - said["iat"] == 3600
    assert "clock_offset" not in said


def test_a_token_moves_the_clock_to_the_next_such_minute(folder: Folder) -> None:
    said = claims(folder, ask(folder, "--operator", "--at", "21:40").stdout)
    moved = datetime.fromtimestamp(said["iat"] + said.get("clock_offset", 0), SHANGHAI)
    assert abs(moved - moved.replace(hour=21, minute=40, second=0)) < timedelta(seconds=62)


@given(
    minute=st.integers(0, 24 * 60 - 1),
    zone=st.sampled_from(["Asia/Shanghai", "UTC", "America/New_York", "Asia/Kathmandu"]).map(ZoneInfo),
    at=st.integers(1_577_836_800, 2_051_222_400).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
)
def test_an_offset_never_goes_back_and_less_than_a_day_and_a_shift_ahead(minute: int, zone: ZoneInfo, at: datetime) -> None:
    offset = clock_offset(minute, zone, at)
    assert 0 <= offset <= 25 * 3600
    reached = (at + timedelta(seconds=offset)).astimezone(zone)
    around = {(at + timedelta(days=days)).astimezone(zone).utcoffset() for days in (-1, 2)}
    assert len(around) > 1 or reached.hour * 60 + reached.minute == minute


def test_production_gives_out_none(folder: Folder) -> None:
    answer = ask(folder, "--operator", QUANYU_ENV="production")
    assert answer.exit_code == 2 and not answer.stdout and "QUANYU_ENV is production" in answer.stderr


@pytest.mark.parametrize("arguments", [[], ["--operator", "--subject", "x"], ["--consumer", "stf_1"], ["--operator", "--at", "25:00"]])
def test_an_unclear_wish_is_a_usage_error(folder: Folder, arguments: list[str]) -> None:
    answer = ask(folder, *arguments)
    assert answer.exit_code == 2 and not answer.stdout and answer.stderr


def test_without_keys_it_says_what_makes_them(tmp_path: Path) -> None:
    answer = ask(Folder(tmp_path / "none"), "--operator")
    assert answer.exit_code == 1 and "`quanyu up` makes them" in answer.stderr
