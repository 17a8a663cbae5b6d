"""Operation log: written in batches, without a lost record."""

from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from gateway.observability import operation_log
from gateway.observability.operation_log import SECONDS, OperationLog, OperationRecord
from services.kit.settings import Settings
from tests.gateway.live_gateway import wait_until


def record(number: int, operation: str = "logged", status: int = 200) -> OperationRecord:
    return OperationRecord(f"opn_{number}", operation, status, errors=0, calls=number, seconds=0.5)


def count(operation: str, status: int = 200) -> float:
    samples = [sample for metric in SECONDS.collect() for sample in metric.samples if sample.name.endswith("_count")]
    return sum(sample.value for sample in samples if sample.labels == {"operation": operation, "status": str(status)})


def ids(lines: list[Any]) -> list[str]:
    return [line["id"] for line in lines]


async def test_operations_are_logged_and_measured_in_batches() -> None:
    log, before = OperationLog(Settings()), count("logged")
    with capture_logs() as lines:
        for number in range(3):
            log.add(record(number))
        assert not lines
        await wait_until(lambda: bool(lines))
        assert [(line["id"], line["calls"], line["milliseconds"]) for line in lines] == [(f"opn_{n}", n, 500.0) for n in range(3)]
        assert count("logged") == before + 3
        log.add(record(3))
        await wait_until(lambda: len(lines) == 4)


async def test_each_line_has_its_own_time() -> None:
    log = OperationLog(Settings())
    with capture_logs() as lines:
        for number in range(3):
            log.add(OperationRecord(f"opn_{number}", "logged", 200, 0, 0, 0.5, ended_at=number / 4))
        log.flush()
    assert [line["timestamp"].timestamp() for line in lines] == [number / 4 for number in range(3)]


async def test_full_batch_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation_log, "BATCH_SIZE_MAX", 5)
    log = OperationLog(Settings())
    with capture_logs() as lines:
        for number in range(12):
            log.add(record(number))
        assert len(lines) == 10
        await wait_until(lambda: len(lines) == 12)


async def test_text_is_written_at_once() -> None:
    with capture_logs() as lines:
        OperationLog(Settings(log_format="text")).add(record(7))
    assert ids(lines) == ["opn_7"]


async def test_closed_log_writes_each_record_at_once() -> None:
    log = OperationLog(Settings())
    with capture_logs() as lines:
        log.add(record(1))
        log.close()
        log.add(record(2))
    assert ids(lines) == ["opn_1", "opn_2"]


async def test_lifetime_of_a_subscription_is_not_measured() -> None:
    log = OperationLog(Settings())
    with capture_logs() as lines:
        log.add(record(1, operation_log.SUBSCRIPTION))
        log.flush()
    assert lines and not count(operation_log.SUBSCRIPTION)


async def test_operation_below_the_log_level_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("warning"))
    try:
        log, before = OperationLog(Settings()), count("logged")
        log.add(record(1))
        log.flush()
    finally:
        structlog.reset_defaults()
    assert count("logged") == before + 1
    assert not capsys.readouterr().out
