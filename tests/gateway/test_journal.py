"""What is told of operations that have ended: together, and nothing is left out."""

import json
from collections.abc import Iterator

import pytest

from gateway import journal
from gateway.journal import SECONDS, Ended, Journal
from services.kit import logs
from tests.gateway.serving import until

Writes = list[list[dict[str, object]]]
"""The lines of each write."""


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Writes]:
    lines, written = logs.Lines("gateway", "info"), []

    def write(data: bytes) -> int:
        written.append([json.loads(line) for line in data.splitlines()])
        return len(data)

    monkeypatch.setattr(lines, "write", write)
    monkeypatch.setattr(logs, "lines", lines)
    yield written


def ended(number: int, operation: str = "told", status: int = 200) -> Ended:
    return Ended(f"opn_{number}", operation, status, errors=0, calls=number, seconds=0.5)


def count(operation: str, status: int = 200) -> float:
    samples = [sample for metric in SECONDS.collect() for sample in metric.samples if sample.name.endswith("_count")]
    return sum(sample.value for sample in samples if sample.labels == {"operation": operation, "status": str(status)})


async def test_those_that_end_soon_after_each_other_are_told_of_in_one_write(writes: Writes) -> None:
    kept, before = Journal(), count("told")
    for number in range(3):
        kept.add(ended(number))
    assert not writes
    await until(lambda: bool(writes))
    assert [[(line["id"], line["calls"], line["milliseconds"]) for line in write] for write in writes] == [
        [(f"opn_{number}", number, 500.0) for number in range(3)]
    ]
    assert count("told") == before + 3
    kept.add(ended(3))
    await until(lambda: len(writes) == 2)


async def test_so_many_wait_at_most(writes: Writes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "TOGETHER_MAX", 5)
    kept = Journal()
    for number in range(12):
        kept.add(ended(number))
    assert sum(map(len, writes)) == 10
    await until(lambda: sum(map(len, writes)) == 12)


async def test_once_the_process_ends_each_is_told_of_at_once(writes: Writes) -> None:
    kept = Journal()
    kept.add(ended(1))
    kept.close()
    kept.add(ended(2))
    assert [line["id"] for write in writes for line in write] == ["opn_1", "opn_2"]


async def test_a_person_who_reads_along_is_told_at_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "lines", None)
    Journal().add(ended(7))
    assert "opn_7" in capsys.readouterr().out


async def test_how_long_a_subscription_lasted_is_no_time_to_answer(writes: Writes) -> None:
    kept = Journal()
    kept.add(ended(1, journal.LASTING))
    kept.tell()
    assert writes and not count(journal.LASTING)


async def test_a_level_that_nobody_wants_is_not_written(writes: Writes, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = logs.Lines("gateway", "warning")
    quiet.write = None  # type: ignore[assignment]
    monkeypatch.setattr(logs, "lines", quiet)
    before = count("told")
    kept = Journal()
    kept.add(ended(1))
    kept.tell()
    assert count("told") == before + 1
