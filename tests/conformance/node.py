"""The judges: suites that others wrote, for Node. Each is a script beside this file."""

import os
import subprocess
from pathlib import Path

import pytest

from tests import node

HERE = Path(__file__).parent
RUN_SECONDS_MAX = 60


def installed() -> str:
    """Node's path, with all packages in place; skips with the reason where that cannot be. In CI only a missing Node is a reason."""
    try:
        return node.installed(HERE)
    except node.NoNode as reason:
        pytest.skip(f"the judges do not judge: {reason}")
    except RuntimeError as failed:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"the judges' packages cannot be installed: {failed}")


def run(node: str, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One of the scripts beside this file, to its end."""
    return subprocess.run([node, script, *arguments], cwd=HERE, capture_output=True, text=True, timeout=RUN_SECONDS_MAX)
