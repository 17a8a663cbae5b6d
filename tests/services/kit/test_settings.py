"""Tests of settings: an unknown or invalid variable gives a one-line error without secrets."""

import pytest

from services.kit.settings import Settings, SettingsError, load


def test_empty_environment_gives_the_defaults() -> None:
    assert load({"PATH": "/bin"}) == Settings()


def test_values_are_converted_to_their_types() -> None:
    assert load({"QUANYU_DRAIN_SECONDS": "2.5", "QUANYU_MONGO_DRIVER": "pymongo"}) == Settings(drain_seconds=2.5, mongo_driver="pymongo")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("QUANYU_MONGO_DRIVR", "motor", "Unknown setting QUANYU_MONGO_DRIVR"),
        ("QUANYU_DRAIN_SECONDS", "-1", "QUANYU_DRAIN_SECONDS=-1"),
        ("QUANYU_DRAIN_SECONDS", "soon", "QUANYU_DRAIN_SECONDS=soon"),
        ("QUANYU_MEMBER_ADDRESS", "nowhere", "QUANYU_MEMBER_ADDRESS=nowhere"),
        ("QUANYU_ENV", "staging", "QUANYU_ENV=staging"),
    ],
)
def test_invalid_setting_is_named(name: str, value: str, expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({name: value})
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_error_repeats_no_secret() -> None:
    with pytest.raises(SettingsError) as caught:
        load({"QUANYU_MONGO_URI": "mysql://root:hunter2@db"})
    assert "hunter2" not in str(caught.value)
