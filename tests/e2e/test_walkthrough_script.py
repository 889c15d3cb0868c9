"""The script of the worked example, on another root and another user."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY

pytestmark = pytest.mark.e2e


def test_the_worked_example_is_written_from_any_finished_root(finished):
    command = [sys.executable, "docs/walkthrough.py", "--settings", str(finished.file), "--user", "48", "--row", "15"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^## ", done.stdout, re.MULTILINE)) == 9
    assert "| knowledge | 0." in done.stdout and '"candidates"' in done.stdout
