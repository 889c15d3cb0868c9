"""A lock that another process holds is waited for, and not for ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import StorageError
from core.filesystem import locked
from feature_repo.pusher import pushing

HOLD = """
import fcntl, sys
stream = open(sys.argv[1], "w")
fcntl.flock(stream, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path: Path):
    """A file that another process has locked, and that process."""
    path = tmp_path / "live" / ".lock"
    path.parent.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == "held\n"
    yield path, process
    process.stdin.close()
    process.wait()


def test_patience_ends(held):
    path, process = held
    waited = []
    with pytest.raises(TimeoutError, match="another process has held"), locked(path, lambda: waited.append(1), 0.1):
        pass
    assert waited == [1]
    process.stdin.close()
    process.wait()
    with locked(path, patience=0.1):
        pass


def test_a_push_gives_up_and_says_so(held, tmp_path):
    with pytest.raises(StorageError, match="push the rows again"), pushing(tmp_path, patience=0.1):
        pass
