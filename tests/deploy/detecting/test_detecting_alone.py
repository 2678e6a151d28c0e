"""The build's detecting tool imports no more of deploy/ than its target declares, so that a bundle can be built."""

from __future__ import annotations

import subprocess
import sys

# The files of //deploy:detecting, as modules.
DECLARED = ["deploy", "deploy.config", "deploy.config.names", "deploy.detect", "deploy.detectors"]
PROBE = """
import sys
import deploy.detect, deploy.detectors
print(sorted(name for name in sys.modules if name.split(".")[0] == "deploy"))
"""


def test_the_tool_needs_what_it_declares() -> None:
    """In a process of its own; under Bazel with the target's files alone."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(DECLARED)
