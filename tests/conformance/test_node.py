"""Node packages: lock files name no host, and without Node the suites are skipped."""

import json
from pathlib import Path

import pytest

from tests.bench.peers.peer import HERE as PEERS
from tests.conformance.node import HERE, installed


@pytest.mark.parametrize("folder", [HERE, PEERS], ids=lambda folder: folder.name)
def test_lock_file_names_no_host(folder: Path) -> None:
    """Packages are installed from the configured registry. An option in .npmrc keeps hosts out of the file."""
    packages = json.loads((folder / "package-lock.json").read_text())["packages"]
    named = {name: package for name, package in packages.items() if name}
    assert named
    assert [name for name, package in named.items() if "resolved" in package] == []
    assert [name for name, package in named.items() if "integrity" not in package and not package.get("inBundle")] == []
    assert "omit-lockfile-registry-resolved=true" in (folder / ".npmrc").read_text().splitlines()


def test_missing_or_old_node_skips_with_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="The conformance suites need Node: Node 20 or later and npm are not on PATH"):
        installed()
    for name, output in (("npm", "10.0.0"), ("node", "v18.19.1")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {output}\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(pytest.skip.Exception, match=r"Node v18\.19\.1 is too old"):
        installed()
