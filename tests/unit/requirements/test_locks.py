"""The locks: complete, plain, and what this environment really holds."""

from __future__ import annotations

import importlib.metadata as metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

REQUIREMENTS = Path(__file__).resolve().parents[3] / "requirements"
NAMES = ("dev", "serve", "airflow", "gpu")
# The trio must be built for one another; nothing but these numbers says so. BentoML's successor cannot be installed.
PINNED = {"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.8.0", "bentoml": "1.4.39"}
GPU_BUILDS = {"torch", "torchrec", "fbgemm-gpu"}


def pins(name: str) -> dict[str, str]:
    lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("name", NAMES)
def test_every_line_is_a_name_and_one_version_in_order(name):
    lines = [line for line in (REQUIREMENTS / f"{name}.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == sorted(lines, key=lambda line: line.split("==")[0])
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9][a-z0-9-]*==[0-9][0-9a-z.]*", line)] == []


def test_the_development_lock_is_what_is_installed():
    installed = {name: Version(metadata.version(name)).public for name in pins("dev")}
    assert installed == pins("dev")
    assert installed.items() >= PINNED.items()


def test_lean_locks_take_their_versions_from_the_development_lock():
    for name in ("serve", "airflow", "gpu"):
        mine = pins(name).items()
        assert {key for key, value in mine - pins("dev").items()} <= (GPU_BUILDS if name == "gpu" else set())


def test_lean_locks_leave_out_what_their_image_does_not_run():
    assert not pins("serve").keys() & {"apache-airflow", "great-expectations", "mlflow", "pytest"}
    assert not pins("airflow").keys() & {"torch", "feast", "great-expectations", "bentoml", "mlflow"}
    assert not pins("gpu").keys() & {"apache-airflow", "fbgemm-gpu-cpu", "pytest"}


def test_the_locks_are_what_their_inputs_and_this_environment_give():
    done = subprocess.run([sys.executable, REQUIREMENTS / "lock.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
