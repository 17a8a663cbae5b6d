"""Node and the packages of a `package-lock.json`, for conformance suites and reference programs."""

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

MAJOR_MIN = 20
"""The tests need at least this major version of Node."""
INSTALL_SECONDS_MAX = 300
VERSION_SECONDS_MAX = 10


class NodeMissing(Exception):
    """Node is missing or too old."""


def install_packages(folder: Path) -> str:
    """Installs the packages of a folder unless they are current; returns the path of Node.

    NodeMissing without a suitable Node, RuntimeError if the installation fails.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        raise NodeMissing(f"Node {MAJOR_MIN} or later and npm are not on PATH. Install them.")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=VERSION_SECONDS_MAX).stdout.strip()
    if int(version.lstrip("v").split(".")[0]) < MAJOR_MIN:
        raise NodeMissing(f"Node {version} is too old. Install {MAJOR_MIN} or later.")
    lock = folder / "package-lock.json"
    digest, stamp = hashlib.sha256(lock.read_bytes()).hexdigest(), folder / "node_modules" / ".installed"
    with lock.open() as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != digest:
            _install(npm, folder)
            stamp.write_text(digest)
    return node


def _install(npm: str, folder: Path) -> None:
    command = [npm, "ci", "--ignore-scripts", "--no-progress"]
    try:
        completed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"npm ci took more than {INSTALL_SECONDS_MAX} seconds") from None
    if completed.returncode:
        raise RuntimeError(f"npm ci failed: {completed.stderr.strip()[-500:]}")
