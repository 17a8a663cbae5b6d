"""Local suite: `quanyu up` on an empty folder, a query through the gateway, and the end of all processes after one is killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from click.testing import CliRunner, Result

from services.local.cli import main
from services.local.folder import Folder, Run

QUANYU = str(Path(sys.executable).with_name("quanyu"))
READY_LINE = "Quanyu is ready:"
END_SECONDS_MAX = 30


class Suite:
    """`quanyu up` in a separate process."""

    def __init__(self, data: Path) -> None:
        self.data = data
        names = ("MEMBER_ADDRESS", "COMMERCE_ADDRESS", "DISTRICT_ADDRESS", "ORGANIZATION_ADDRESS")
        environ = {name: value for name, value in os.environ.items() if not name.startswith("QUANYU_")}
        environ |= {f"QUANYU_{name}": "127.0.0.1:0" for name in names}
        self.up = subprocess.Popen(
            [QUANYU, "up", "--port", "0", "--data", str(data)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ
        )

    def until_ready(self) -> Run:
        """Returns run.json once every process is ready; fails with the output if the suite ends before."""
        assert self.up.stdout is not None
        lines: list[str] = []
        for line in self.up.stdout:
            lines.append(line)
            if line.startswith(READY_LINE):
                return Folder(self.data).running()
        raise AssertionError("".join(lines))

    def processes(self) -> list[psutil.Process]:
        """Returns `up` and all its descendants."""
        top = psutil.Process(self.up.pid)
        return [top, *top.children(recursive=True)]

    def end(self) -> str:
        """Returns the rest of the output once the suite has ended."""
        return self.up.communicate(timeout=END_SECONDS_MAX)[0]


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[Suite]:
    suite = Suite(tmp_path / "data")
    yield suite
    suite.up.kill()  # its children end with it
    suite.up.communicate()


def run_command(suite: Suite, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--data", str(suite.data)])


def test_up_starts_suite_until_one_process_ends(suite: Suite) -> None:
    run = suite.until_ready()
    processes = suite.processes()
    assert [process.name for process in run.processes] == ["member", "commerce", "district", "organization", "gateway"]
    assert sum(process.name() == "mongod" for process in processes) == 1
    assert run.installation

    status = run_command(suite, "status")
    assert status.exit_code == 0 and status.output.count("ready") == 6, status.output

    token = run_command(suite, "token", "--operator").output.strip()
    answer = httpx.post(f"{run.gateway}/graphql", json={"query": "{ __typename }"}, headers={"authorization": f"Bearer {token}"})
    assert answer.json() == {"data": {"__typename": "Query"}}

    second = run_command(suite, "up", "--port", "0")
    assert second.exit_code == 2

    district = next(process for process in run.processes if process.name == "district")
    os.kill(district.pid, signal.SIGKILL)
    output = suite.end()
    assert suite.up.returncode == 1 and "district was killed by SIGKILL" in output, output
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive
    assert run_command(suite, "status").exit_code == 1
