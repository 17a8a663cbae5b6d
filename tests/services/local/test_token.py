"""Development tokens: their claims, their subjects, and their clock offset."""

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


def run_token(folder: Folder, *arguments: str, **environ: str) -> Result:
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
def test_token_names_subject(folder: Folder, arguments: list[str], subject: str) -> None:
    answer = run_token(folder, *arguments)
    payload = claims(folder, answer.stdout)
    assert (payload["iss"], payload["aud"], payload["sub"]) == ("quanyu-local", "quanyu", subject)
    assert payload["exp"] - payload["iat"] == 3600
    assert "clock_offset" not in payload


def test_token_moves_clock_to_next_minute(folder: Folder) -> None:
    payload = claims(folder, run_token(folder, "--operator", "--at", "21:40").stdout)
    moved = datetime.fromtimestamp(payload["iat"] + payload.get("clock_offset", 0), SHANGHAI)
    assert abs(moved - moved.replace(hour=21, minute=40, second=0)) < timedelta(seconds=62)


@given(
    minute=st.integers(0, 24 * 60 - 1),
    zone=st.sampled_from(["Asia/Shanghai", "UTC", "America/New_York", "Asia/Kathmandu"]).map(ZoneInfo),
    at=st.integers(1_577_836_800, 2_051_222_400).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
)
def test_clock_offset_is_at_most_25_hours_ahead(minute: int, zone: ZoneInfo, at: datetime) -> None:
    offset = clock_offset(minute, zone, at)
    assert 0 <= offset <= 25 * 3600
    reached = (at + timedelta(seconds=offset)).astimezone(zone)
    around = {(at + timedelta(days=days)).astimezone(zone).utcoffset() for days in (-1, 2)}
    assert len(around) > 1 or reached.hour * 60 + reached.minute == minute


def test_token_in_production_is_refused(folder: Folder) -> None:
    answer = run_token(folder, "--operator", QUANYU_ENV="production")
    assert answer.exit_code == 2 and not answer.stdout and "QUANYU_ENV is production" in answer.stderr


@pytest.mark.parametrize("arguments", [[], ["--operator", "--subject", "x"], ["--consumer", "stf_1"], ["--operator", "--at", "25:00"]])
def test_token_with_unclear_subject_is_usage_error(folder: Folder, arguments: list[str]) -> None:
    answer = run_token(folder, *arguments)
    assert answer.exit_code == 2 and not answer.stdout and answer.stderr


def test_token_without_keys_names_remedy(tmp_path: Path) -> None:
    answer = run_token(Folder(tmp_path / "none"), "--operator")
    assert answer.exit_code == 1 and "Run `quanyu up`, which creates them" in answer.stderr
