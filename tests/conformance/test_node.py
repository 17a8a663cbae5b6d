"""What Node's suites stand on: lock files that name no host, and a reason where there is no Node."""

import json
from pathlib import Path

import pytest

from tests.bench.peers.peer import HERE as PEERS
from tests.conformance.node import HERE, installed


@pytest.mark.parametrize("folder", [HERE, PEERS], ids=lambda folder: folder.name)
def test_a_lock_file_names_no_host(folder: Path) -> None:
    """Whoever installs does so from the registry that they have set; npm, told so here, writes it that way."""
    packages = json.loads((folder / "package-lock.json").read_text())["packages"]
    named = {name: package for name, package in packages.items() if name}
    assert named
    assert [name for name, package in named.items() if "resolved" in package] == []
    assert [name for name, package in named.items() if "integrity" not in package and not package.get("inBundle")] == []
    assert "omit-lockfile-registry-resolved=true" in (folder / ".npmrc").read_text().splitlines()


def test_without_node_they_skip_with_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="the judges do not judge: Node 20 or later and npm are not on PATH"):
        installed()
    for name, says in (("npm", "10.0.0"), ("node", "v18.19.1")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {says}\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(pytest.skip.Exception, match="is needed, not v18"):
        installed()
