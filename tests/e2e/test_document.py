"""The OpenAPI document is true: some 2,000 requests of every sort, made from it, and no answer that it does not describe."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import Project
from started import started

pytestmark = pytest.mark.e2e
CASES = 2_000
# What a schema cannot say, such as which ids a log can have, is a 400 with its reason.
LEFT_OUT = "positive_data_acceptance"


@pytest.mark.skipif(
    importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed; make setup"
)
def test_every_answer_is_one_that_the_document_describes_and_none_is_a_5xx(finished, tmp_path):
    # A copy: rows are pushed, and others compare what is online with what was made.
    shutil.copytree(finished.folder, tmp_path / "copy")
    own = Project(tmp_path / "copy")
    with started(own.file, tmp_path / "log", ready=True, LLM4MSR_PUSH__HTTP="true") as service:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/docs.json", "--checks=all"]
        command += [
            f"--exclude-checks={LEFT_OUT}",
            "--phases=examples,coverage,fuzzing",
            "--max-examples=500",
            "--seed=1",
        ]
        command += ["--max-failures=5", "--no-color", "--request-timeout=60", "--generation-database=none"]
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "NO_PROXY": "*"}, capture_output=True, text=True, timeout=1_800
        )
        (made,) = re.findall(r"([\d,]+) generated", done.stdout) or ["0"]
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert int(made.replace(",", "")) >= CASES
        told = service.log.read_text()
    assert "Traceback" not in told and " ERROR " not in told
