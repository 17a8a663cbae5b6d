"""What is unknown or bad stops the start with one clear line that repeats no secret."""

import pytest

from services.kit.settings import Settings, SettingsError, load


def test_nothing_set_gives_the_defaults() -> None:
    assert load({"PATH": "/bin"}) == Settings()


def test_values_are_read_as_their_types() -> None:
    assert load({"QUANYU_DRAIN_SECONDS": "2.5", "QUANYU_MONGO_DRIVER": "pymongo"}) == Settings(drain_seconds=2.5, mongo_driver="pymongo")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("QUANYU_MONGO_DRIVR", "motor", "unknown setting QUANYU_MONGO_DRIVR"),
        ("QUANYU_DRAIN_SECONDS", "-1", "QUANYU_DRAIN_SECONDS=-1"),
        ("QUANYU_DRAIN_SECONDS", "soon", "QUANYU_DRAIN_SECONDS=soon"),
        ("QUANYU_MEMBER_ADDRESS", "nowhere", "QUANYU_MEMBER_ADDRESS=nowhere"),
        ("QUANYU_ENV", "staging", "QUANYU_ENV=staging"),
    ],
)
def test_a_bad_setting_is_named(name: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({name: value})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_secret_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as caught:
        load({"QUANYU_MONGO_URI": "mysql://root:hunter2@db"})
    assert "hunter2" not in str(caught.value)
