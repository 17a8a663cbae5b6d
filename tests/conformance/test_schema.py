"""The schema, as others judge it: `relay-compiler` compiles the front ends' operations, `graphql-inspector` finds what breaks clients."""

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


def test_relay_compiles_the_front_ends_operations(node: str, tmp_path: Path) -> None:
    compiled = run(node, "relay.mjs", str(ROOT / SCHEMA), str(OPERATIONS), str(tmp_path))
    assert compiled.returncode == 0, compiled.stdout + compiled.stderr
    artifacts = {path.name.split(".")[0].lower() for path in (tmp_path / "src" / "compiled").glob("*.graphql.js")}
    expected = {path.stem.replace("_", "").lower() for path in OPERATIONS.glob("*.graphql")}
    assert {name for name in expected if not any(artifact.startswith(name) for artifact in artifacts)} == set()


def test_what_breaks_clients_has_its_note(node: str, tmp_path: Path) -> None:
    stated = tomllib.loads(NOTES.read_text())
    before = tmp_path / "baseline.graphql"
    before.write_bytes(baseline(stated["baseline"]))
    inspected = run(node, "inspect.mjs", str(before), str(ROOT / SCHEMA))
    assert inspected.returncode == 0, inspected.stderr
    changes = [json.loads(line) for line in inspected.stdout.splitlines()]
    breaking = {change["message"] for change in changes if change["level"] == "BREAKING"}
    assert breaking - stated["notes"].keys() == set(), f"undo these, or say in {NOTES.name} why and what clients do instead"
    assert stated["notes"].keys() - breaking == set(), f"these notes of {NOTES.name} tell of nothing that is broken"
    assert all(len(note) > 20 for note in stated["notes"].values())


def baseline(revision: str) -> bytes:
    """The schema as of that revision. Where it cannot be had, skips with the reason; with QUANYU_TEST_BASELINE fails with what to do."""
    try:
        shown = subprocess.run(["git", "show", f"{revision}:{SCHEMA}"], cwd=ROOT, capture_output=True, timeout=30)
    except OSError as error:
        return missing(revision, str(error))
    return shown.stdout if shown.returncode == 0 else missing(revision, shown.stderr.decode().strip())


def missing(revision: str, why: str) -> NoReturn:
    """Ends the test that needs the revision."""
    told = f"the schema's baseline {revision} is not in this clone ({why}): git fetch --unshallow, or name another one in {NOTES.name}"
    (pytest.fail if os.environ.get("QUANYU_TEST_BASELINE") else pytest.skip)(told)


def test_a_clone_without_the_baseline_fails_where_it_is_required_and_is_told_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = "0" * 40
    monkeypatch.setenv("QUANYU_TEST_BASELINE", "required")
    with pytest.raises(pytest.fail.Exception, match="git fetch --unshallow"):
        baseline(nowhere)
    monkeypatch.delenv("QUANYU_TEST_BASELINE", raising=False)
    with pytest.raises(pytest.skip.Exception, match="git fetch --unshallow"):
        baseline(nowhere)


def test_the_inspector_sees_what_breaks(node: str, tmp_path: Path) -> None:
    (tmp_path / "without.graphql").write_text((ROOT / SCHEMA).read_text().replace("\n  viewer: Viewer\n", "\n  watcher: Viewer\n"))
    inspected = run(node, "inspect.mjs", str(ROOT / SCHEMA), str(tmp_path / "without.graphql"))
    levels = {change["path"]: change["level"] for line in inspected.stdout.splitlines() if (change := json.loads(line))}
    assert levels["Query.viewer"] == "BREAKING", inspected.stderr
