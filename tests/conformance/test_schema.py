"""Schema checks by other projects: `relay-compiler` compiles the front ends' operations, `graphql-inspector` finds breaking changes."""

import json
import os
import subprocess
import tomllib
from pathlib import Path
from typing import NoReturn

import pytest

from tests.conformance.node import HERE, run
from tests.gateway.conftest import OPERATIONS

ROOT = HERE.parents[1]
SCHEMA = "gateway/schema.graphql"
NOTES = HERE / "schema.toml"


def test_relay_compiles_all_front_end_operations(node: str, tmp_path: Path) -> None:
    compiled = run(node, "relay.mjs", str(ROOT / SCHEMA), str(OPERATIONS), str(tmp_path))
    assert compiled.returncode == 0, compiled.stdout + compiled.stderr
    artifacts = {path.name.split(".")[0].lower() for path in (tmp_path / "src" / "compiled").glob("*.graphql.js")}
    expected = {path.stem.replace("_", "").lower() for path in OPERATIONS.glob("*.graphql")}
    assert {name for name in expected if not any(artifact.startswith(name) for artifact in artifacts)} == set()


def test_every_breaking_change_has_a_note(node: str, tmp_path: Path) -> None:
    declared = tomllib.loads(NOTES.read_text())
    before = tmp_path / "baseline.graphql"
    before.write_bytes(baseline(declared["baseline"]))
    inspected = run(node, "inspect.mjs", str(before), str(ROOT / SCHEMA))
    assert inspected.returncode == 0, inspected.stderr
    changes = [json.loads(line) for line in inspected.stdout.splitlines()]
    breaking = {change["message"] for change in changes if change["level"] == "BREAKING"}
    assert breaking - declared["notes"].keys() == set(), f"These changes break clients. Undo them, or add notes to {NOTES.name}."
    assert declared["notes"].keys() - breaking == set(), f"These notes match no breaking change. Remove them from {NOTES.name}."
    assert all(len(note) > 20 for note in declared["notes"].values())


def baseline(revision: str) -> bytes:
    """Returns the schema of a revision. If the clone lacks it, skips the test or, with QUANYU_TEST_BASELINE, fails it."""
    try:
        shown = subprocess.run(["git", "show", f"{revision}:{SCHEMA}"], cwd=ROOT, capture_output=True, timeout=30)
    except OSError as error:
        return end_without_baseline(revision, str(error))
    return shown.stdout if shown.returncode == 0 else end_without_baseline(revision, shown.stderr.decode().strip())


def end_without_baseline(revision: str, reason: str) -> NoReturn:
    """Skips or fails the test that needs the revision."""
    message = (
        f"This clone lacks the baseline {revision} of the schema ({reason}). "
        f"Run git fetch --unshallow, or name another one in {NOTES.name}."
    )
    (pytest.fail if os.environ.get("QUANYU_TEST_BASELINE") else pytest.skip)(message)


def test_missing_baseline_fails_or_skips_by_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = "0" * 40
    monkeypatch.setenv("QUANYU_TEST_BASELINE", "required")
    with pytest.raises(pytest.fail.Exception, match="git fetch --unshallow"):
        baseline(unknown)
    monkeypatch.delenv("QUANYU_TEST_BASELINE", raising=False)
    with pytest.raises(pytest.skip.Exception, match="git fetch --unshallow"):
        baseline(unknown)


def test_inspector_reports_removed_field_as_breaking(node: str, tmp_path: Path) -> None:
    (tmp_path / "without.graphql").write_text((ROOT / SCHEMA).read_text().replace("\n  viewer: Viewer\n", "\n  watcher: Viewer\n"))
    inspected = run(node, "inspect.mjs", str(ROOT / SCHEMA), str(tmp_path / "without.graphql"))
    levels = {change["path"]: change["level"] for line in inspected.stdout.splitlines() if (change := json.loads(line))}
    assert levels["Query.viewer"] == "BREAKING", inspected.stderr
