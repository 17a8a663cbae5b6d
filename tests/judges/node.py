"""Node and the packages of package-lock.json: the judges are suites that others wrote, for Node."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LOCK = HERE / "package-lock.json"
STAMP = HERE / "node_modules" / ".installed"
MAJOR_MIN = 20
INSTALL_SECONDS_MAX = 120
RUN_SECONDS_MAX = 60


def installed() -> str:
    """Node's path, with all packages in place; skips with the reason where that cannot be. In CI only a missing Node is a reason."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        pytest.skip("the judges need Node 20 or later and npm on PATH")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=RUN_SECONDS_MAX).stdout
    if int(version.strip().lstrip("v").split(".")[0]) < MAJOR_MIN:
        pytest.skip(f"the judges need Node {MAJOR_MIN} or later, not {version.strip()}")
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    with LOCK.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not STAMP.exists() or STAMP.read_text() != wanted:
            _install(npm)
            STAMP.write_text(wanted)
    return node


def _install(npm: str) -> None:
    command = [npm, "ci", "--ignore-scripts", "--no-progress"]
    try:
        ended = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX)
        failed = ended.returncode and ended.stderr.strip()[-500:]
    except subprocess.TimeoutExpired:
        failed = f"npm ci took more than {INSTALL_SECONDS_MAX} seconds"
    if failed:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"the judges' packages cannot be installed: {failed}")


def run(node: str, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One of the scripts beside this file, to its end."""
    return subprocess.run([node, script, *arguments], cwd=HERE, capture_output=True, text=True, timeout=RUN_SECONDS_MAX)
