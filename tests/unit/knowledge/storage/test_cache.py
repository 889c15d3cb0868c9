from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit.knowledge.knowledge_worlds import Letters

from knowledge.storage.cache import Cache, encode_cached

TEXTS = [f"Red River {i} " * (1 + i % 4) for i in range(22)]
KILLED = """
import os, signal, sys
from pathlib import Path
from knowledge.storage.cache import Cache, encode_cached
from unit.knowledge.knowledge_worlds import Letters
class Dies(Letters):
    calls = 0
    def encode(self, texts, progress=iter):
        self.calls += 1
        if self.calls == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(texts, progress)
texts = [f"Red River {i} " * (1 + i % 4) for i in range(22)]
encode_cached(texts, Dies(), Path(sys.argv[1]), shard_rows=5)
"""
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[4]), str(Path(__file__).parents[3])]),
}


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def reasoner() -> Letters:
    return Letters()


def test_only_new_texts_are_encoded_and_order_and_repeats_are_kept(reasoner: Letters, tmp_path: Path) -> None:
    first = encode_cached(TEXTS[:10], reasoner, tmp_path, shard_rows=4)
    reasoner.asked = []
    again = encode_cached([*TEXTS[9::-1], "Blue Moon", "Blue Moon", TEXTS[0]], reasoner, tmp_path, shard_rows=4)
    assert reasoner.asked == ["Blue Moon"]
    assert np.array_equal(again[:10], first[::-1])
    assert np.array_equal(again[10], again[11])
    assert np.array_equal(again[12], first[0])


def test_a_killed_run_loses_one_shard_and_the_next_ends_in_the_same_bytes(reasoner: Letters, tmp_path: Path) -> None:
    whole = encode_cached(TEXTS, reasoner, tmp_path / "whole", shard_rows=5)
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "killed")], env=ENVIRONMENT, check=False)
    assert run.returncode == -signal.SIGKILL
    assert len([p for p in (tmp_path / "killed" / reasoner.identity).iterdir() if not p.name.startswith(".")]) == 2
    reasoner.asked = []
    resumed = encode_cached(TEXTS, reasoner, tmp_path / "killed", shard_rows=5)
    assert len(reasoner.asked) == 12
    assert np.array_equal(resumed, whole)
    assert bytes_below(tmp_path / "killed") == bytes_below(tmp_path / "whole")


@pytest.mark.parametrize("file", ["vectors.npy", "index.json"])
def test_a_damaged_shard_is_made_again(reasoner: Letters, tmp_path: Path, file: str) -> None:
    whole = encode_cached(TEXTS, reasoner, tmp_path, shard_rows=5)
    before = bytes_below(tmp_path)
    damaged = sorted(tmp_path.rglob(file))[1]
    body = bytearray(damaged.read_bytes())
    body[-3] ^= 0xFF
    damaged.write_bytes(bytes(body))
    reasoner.asked = []
    assert np.array_equal(encode_cached(TEXTS, reasoner, tmp_path, shard_rows=5), whole)
    assert len(reasoner.asked) == len(json.loads((damaged.parent / "index.json").read_text())["hashes"])
    assert bytes_below(tmp_path) == before


class Speaking(Letters):
    """Letters that also answers."""

    identity = "speaking"

    def answer(self, texts: Sequence[str], progress: Any = iter) -> tuple[np.ndarray, list[str]]:
        return self.encode(texts, progress), [f"said {text}" for text in texts]


def test_answers_are_kept_beside_the_vectors_and_a_damaged_one_is_asked_for_again(tmp_path: Path) -> None:
    speaking = Speaking()
    vectors, answers = Cache(tmp_path, speaking, shard_rows=5).answer(TEXTS)
    assert answers == [f"said {text}" for text in TEXTS]
    damaged = sorted(tmp_path.rglob("answers.json"))[0]
    damaged.write_text(damaged.read_text().replace("said", "sung"))
    speaking.asked = []
    again, repeated = Cache(tmp_path, speaking, shard_rows=5).answer(TEXTS)
    assert repeated == answers
    assert np.array_equal(again, vectors)
    assert len(speaking.asked) == len(json.loads((damaged.parent / "index.json").read_text())["hashes"])


def test_parts_are_disjoint_and_complete_and_end_in_the_bytes_of_one_job(reasoner: Letters, tmp_path: Path) -> None:
    encode_cached(TEXTS, reasoner, tmp_path / "alone", shard_rows=3)
    asked = []
    for part in (3, 1, 2):
        reasoner.asked = []
        Cache(tmp_path / "parts", reasoner, shard_rows=3, part=(part, 3)).fill(TEXTS)
        asked += reasoner.asked
    assert sorted(asked) == sorted(set(TEXTS))
    assert bytes_below(tmp_path / "parts") == bytes_below(tmp_path / "alone")


def test_a_job_that_began_before_another_wrote_still_reads_right(reasoner: Letters, tmp_path: Path) -> None:
    early = Cache(tmp_path, reasoner, shard_rows=5)
    expected = Cache(tmp_path, reasoner, shard_rows=4).encode(TEXTS)
    assert np.array_equal(early.encode(TEXTS), expected)
    assert np.array_equal(Cache(tmp_path, reasoner, shard_rows=5).encode(TEXTS), expected)


def test_two_processes_leave_one_whole_cache(reasoner: Letters, tmp_path: Path) -> None:
    script = KILLED.replace("self.calls == 3", "False")
    command = [sys.executable, "-c", script, str(tmp_path / "shared")]
    both = [subprocess.Popen(command, env=ENVIRONMENT) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    encode_cached(TEXTS, reasoner, tmp_path / "alone", shard_rows=5)
    assert bytes_below(tmp_path / "shared") == bytes_below(tmp_path / "alone")
