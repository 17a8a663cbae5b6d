"""`quanyu up` where it cannot start: one clear line on stderr, exit status 2, nothing left behind."""

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from services.kit import settings as kit_settings
from services.local.cli import main
from services.local.folder import Folder, Run
from services.local.keys import new_keys
from services.local.suite import resolve, stages
from services.local.up import announce


@pytest.fixture
def anywhere() -> dict[str, str]:
    """Any free ports, so that the tests meet no other suite."""
    names = ("MEMBER_ADDRESS", "COMMERCE_ADDRESS", "DISTRICT_ADDRESS", "ORGANIZATION_ADDRESS", "GATEWAY_LISTEN")
    return {f"QUANYU_{name}": "127.0.0.1:0" for name in names}


def up(folder: Path, *arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(main, ["up", "--data", str(folder), *arguments], env=environ)


def refused(answer: Result) -> str:
    """The one line on stderr."""
    assert answer.exit_code == 2, answer.output
    (line,) = answer.stderr.splitlines()
    return line.removeprefix("quanyu: ")


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"QUANYU_COLOUR": "red"}, "unknown setting QUANYU_COLOUR"),
        ({"QUANYU_DRAIN_SECONDS": "soon"}, "QUANYU_DRAIN_SECONDS=soon: Expected"),
        ({"QUANYU_MONGO_URI": "postgres://me:secret@here"}, "QUANYU_MONGO_URI=(value withheld)"),
        ({"QUANYU_ENV": "production"}, "QUANYU_ENV is production"),
        ({"QUANYU_SIGNING_KEY": "{}"}, "QUANYU_SIGNING_KEY is made by `quanyu up` itself"),
        ({"QUANYU_GATEWAY_LISTEN": "127.0.0.1:70000"}, "QUANYU_GATEWAY_LISTEN: there is no port 70000"),
        ({"QUANYU_METRICS_LISTEN": "127.0.0.1:65533"}, "QUANYU_METRICS_LISTEN: there is no port 65536 (it names the first of 5"),
        ({"QUANYU_METRICS_LISTEN": "127.0.0.1:0"}, "QUANYU_METRICS_LISTEN: there is no port 0"),
    ],
)
def test_a_setting_that_cannot_be_used(tmp_path: Path, anywhere: dict[str, str], environ: dict[str, str], said: str) -> None:
    line = refused(up(tmp_path / "data", **anywhere | environ))
    assert said in line and "secret" not in line
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["QUANYU_GATEWAY_LISTEN", "QUANYU_DISTRICT_ADDRESS"])
def test_a_port_in_use_is_named_with_what_changes_it(tmp_path: Path, anywhere: dict[str, str], name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = refused(up(tmp_path / "data", **anywhere | {name: address}))
    assert line.startswith(f"port {address.split(':')[1]} is in use; choose another by {name}")


@pytest.mark.parametrize("taken", range(9100, 9105))
def test_a_port_of_the_metrics_in_use_is_named_too(
    tmp_path: Path, anywhere: dict[str, str], monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    """The gateway's metrics have the port that is named, the services' the ones after it."""
    monkeypatch.setattr("services.local.suite.port_is_free", lambda port: port != taken)
    line = refused(up(tmp_path / "data", **anywhere, QUANYU_METRICS_LISTEN="127.0.0.1:9100"))
    assert line.startswith(f"port {taken} is in use; choose another by QUANYU_METRICS_LISTEN (it names the first of 5")


def test_a_port_that_two_settings_name_is_told(tmp_path: Path, anywhere: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.local.suite.port_is_free", lambda port: True)
    line = refused(up(tmp_path / "data", **anywhere | {"QUANYU_GATEWAY_LISTEN": "127.0.0.1:9103"}, QUANYU_METRICS_LISTEN="127.0.0.1:9100"))
    assert line.startswith("port 9103 is wanted twice, by QUANYU_GATEWAY_LISTEN and QUANYU_METRICS_LISTEN")


def test_another_up_on_the_same_folder(tmp_path: Path, anywhere: dict[str, str]) -> None:
    with Folder(tmp_path / "data").claim():
        assert "another `quanyu up`" in refused(up(tmp_path / "data", **anywhere))


def test_a_data_folder_of_another_version(tmp_path: Path, anywhere: dict[str, str]) -> None:
    (tmp_path / "version").write_text("7\n")
    assert "is of version 7, this Quanyu reads version 1" in refused(up(tmp_path, **anywhere))


def test_a_mongodb_that_does_not_answer(tmp_path: Path, anywhere: dict[str, str]) -> None:
    line = refused(up(tmp_path / "data", "--mongo", "mongodb://me:secret@127.0.0.1:1/?serverSelectionTimeoutMS=200", **anywhere))
    assert "does not answer" in line and "secret" not in line


def test_a_missing_mongod_says_what_to_do(tmp_path: Path, anywhere: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.local.mongod.importlib.util.find_spec", lambda name: None)
    line = refused(up(tmp_path / "data", **anywhere, PATH=""))
    assert "no mongod found" in line and "QUANYU_MONGO_URI" in line


def test_every_process_reads_its_settings_again(anywhere: dict[str, str]) -> None:
    asked = {"QUANYU_MONGO_URI": "mongodb://db/?replicaSet=rs1", "QUANYU_DRAIN_SECONDS": "3", "QUANYU_METRICS_LISTEN": "127.0.0.1:9100"}
    given = resolve(kit_settings.load(anywhere | asked), 0)
    keys = new_keys()
    (services, (gateway,)) = stages(given, keys)
    read = {process.name: kit_settings.load(process.environment) for process in (*services, gateway)}
    assert {(each.mongo_uri, each.drain_seconds) for each in read.values()} == {("mongodb://db/?replicaSet=rs1", 3.0)}
    assert len({each.metrics_listen for each in read.values()}) == len({each.signing_key for each in read.values()}) == 5
    assert read["gateway"].token_keys == keys.tokens_setting() and not read["gateway"].secret_keys
    assert read["member"].secret_keys == keys.secret_key and read["member"].listen == read["gateway"].member_address != "127.0.0.1:0"


@pytest.mark.parametrize("demo", [True, False])
def test_what_may_be_called_next_is_said_as_it_must_be_called(capsys: pytest.CaptureFixture[str], tmp_path: Path, demo: bool) -> None:
    announce(Run(1, "http://127.0.0.1:8123", "", "", []), Folder(tmp_path), demo=demo)
    said = capsys.readouterr().out
    assert "http://127.0.0.1:8123/graphql" in said and f" status --data {tmp_path} " in said
    assert (f" story --data {tmp_path} " in said) is demo
