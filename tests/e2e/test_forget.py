"""`llm4msr forget` leaves nothing of a person, keeps what serves, and goes on after a kill."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import Project

from core import ArtifactStore, load_settings
from core.contracts.pointers import BundlePointer
from core.forgotten import Forgotten
from models import load_bundle
from pipeline.commands.forget import look
from pipeline.commands.verify import verify

pytestmark = pytest.mark.e2e
KILLED = """
import os, signal, sys
from core import load_settings
from pipeline.commands import forget
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
setattr(forget._Forgetting, sys.argv[2], die)
forget.forget(load_settings(sys.argv[1]), [int(sys.argv[3])])
"""


@pytest.fixture
def project(finished, tmp_path) -> Project:
    shutil.copytree(finished.folder, tmp_path / "copy")
    return Project(tmp_path / "copy")


def check_whole(project: Project) -> None:
    """Every artifact is what its manifest says, and the champion can be loaded."""
    assert verify(load_settings(project.file), []).faults == []
    champion = BundlePointer.read(project.root)
    assert champion is not None
    load_bundle(champion.folder(project.root)).check_golden()


def test_a_person_is_gone_everywhere_and_stays_so(project):
    settings = load_settings(project.file)
    counted = project.command("forget", "1", "2")
    assert "add --yes" in counted.stdout
    assert look(settings, [1, 2]).places
    done = project.command("forget", "1", "2", "--yes")
    assert done.returncode == 0, done.stderr
    assert look(settings, [1, 2]).places == {}
    check_whole(project)
    for file in project.root.rglob("*.parquet"):
        for column in {"user_id"} & set(pq.read_schema(file).names):
            ids = pq.read_table(file, columns=[column])[column]
            assert not set(ids.to_pylist()) & {1, 2}, file
    proof = json.loads(next((project.root / "forgotten" / "proofs").iterdir()).read_text())
    listed = Forgotten(project.root)
    assert sorted(proof["sha256_with_salt"]) == sorted(map(listed.hash_of, (1, 2)))
    assert proof["removed"] and proof["cannot_reach"]
    again = project.command("run", "--until", "validate")
    assert again.returncode == 0, again.stderr
    assert "rows of forgotten users were dropped" in again.stderr
    rows = pq.read_table(ArtifactStore(project.root).get("validate").file("interactions.parquet"))
    assert pc.min(rows["user_id"]).as_py() == 3
    assert look(settings, [1, 2]).places == {}


def test_a_kill_at_any_place_is_mended_by_the_next_call(project):
    settings = load_settings(project.file)
    for user, place in ((1, "_caches"), (2, "_rename_inputs"), (3, "_pointers")):
        command = [sys.executable, "-c", KILLED, str(project.file), place, str(user)]
        assert subprocess.run(command, cwd=project.folder, capture_output=True).returncode == -9
    done = project.command("forget", "--yes")
    assert done.returncode == 0, done.stderr
    assert look(settings, [1, 2, 3]).places == {}
    check_whole(project)
