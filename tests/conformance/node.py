"""Conformance suites of other projects, for Node. Each is a script in this folder."""

import os
import subprocess
from pathlib import Path

import pytest

from tests import node

HERE = Path(__file__).parent
RUN_SECONDS_MAX = 60


def installed() -> str:
    """Returns the path of Node, with all packages installed. Skips the test without Node and, outside CI, without packages."""
    try:
        return node.install_packages(HERE)
    except node.NodeMissing as reason:
        pytest.skip(f"The conformance suites need Node: {reason}")
    except RuntimeError as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"The packages of the conformance suites cannot be installed: {error}")


def run(node: str, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a script of this folder and returns the ended process."""
    return subprocess.run([node, script, *arguments], cwd=HERE, capture_output=True, text=True, timeout=RUN_SECONDS_MAX)
