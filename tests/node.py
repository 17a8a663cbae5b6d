"""Node, and the packages that a folder's package-lock.json names, for suites and programs that others wrote."""

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

MAJOR_MIN = 20
INSTALL_SECONDS_MAX = 300
VERSION_SECONDS_MAX = 10


class NoNode(Exception):
    """There is no Node, or not the one that is needed."""


def installed(folder: Path) -> str:
    """Node's path, with all packages of the folder in place. `NoNode`, or RuntimeError when they cannot be installed."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        raise NoNode(f"Node {MAJOR_MIN} or later and npm are not on PATH")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=VERSION_SECONDS_MAX).stdout.strip()
    if int(version.lstrip("v").split(".")[0]) < MAJOR_MIN:
        raise NoNode(f"Node {MAJOR_MIN} or later is needed, not {version}")
    lock = folder / "package-lock.json"
    wanted, stamp = hashlib.sha256(lock.read_bytes()).hexdigest(), folder / "node_modules" / ".installed"
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
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
