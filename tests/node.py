"""Node and the packages of a folder's package-lock.json, for suites and programs of other projects."""

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

MAJOR_MIN = 20
INSTALL_SECONDS_MAX = 300
VERSION_SECONDS_MAX = 10


class NoNode(Exception):
    """Node is missing or too old."""


def installed(folder: Path) -> str:
    """Returns the path of Node, with all packages of the folder installed. `NoNode`, or RuntimeError if they cannot be installed."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        raise NoNode(f"version {MAJOR_MIN} or later and npm are not on PATH")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=VERSION_SECONDS_MAX).stdout.strip()
    if int(version.lstrip("v").split(".")[0]) < MAJOR_MIN:
        raise NoNode(f"version {MAJOR_MIN} or later is required, not {version}")
    lock = folder / "package-lock.json"
    wanted, stamp = hashlib.sha256(lock.read_bytes()).hexdigest(), folder / "node_modules" / ".installed"
    with lock.open() as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            _install(npm, folder)
            stamp.write_text(wanted)
    return node


def _install(npm: str, folder: Path) -> None:
    command = [npm, "ci", "--ignore-scripts", "--no-progress"]
    try:
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"npm ci took more than {INSTALL_SECONDS_MAX} seconds") from None
    if ended.returncode:
        raise RuntimeError(f"npm ci failed: {ended.stderr.strip()[-500:]}")
