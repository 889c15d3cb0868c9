"""The engine `ray` on a real cluster of this machine, with two actors of which one is killed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_refresh import ROWS, SETTINGS, Home, files
from unit.knowledge.knowledge_worlds import Letters

import knowledge.run
import knowledge.storage.buckets
from core import Settings
from core.errors import SettingsError


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    # Otherwise one actor may have read everything before the other is there.
    monkeypatch.setattr(ray.data.DataContext.get_current(), "wait_for_min_actors_s", 600)
    here = Path(__file__).parent
    variables = {
        "PYTHONPATH": os.pathsep.join(map(str, (here.parents[3], here.parents[2], here.parent))),
        "LLM4MSR_TEST_PLACE": str(tmp_path),
    }
    # Its sockets' names must be short.
    folder = tempfile.mkdtemp(prefix="ray")
    try:
        # Ray gives its own processes 30 s to start, which a busy machine may exceed.
        for tries_left in (2, 1, 0):
            try:
                ray.init(
                    address="local",
                    num_cpus=3,
                    include_dashboard=False,
                    log_to_driver=False,
                    object_store_memory=100 << 20,
                    _temp_dir=folder,
                    runtime_env={
                        "env_vars": variables,
                        "worker_process_setup_hook": "unit.knowledge.engines.ray_worker.prepare",
                    },
                )
                break
            except Exception:
                ray.shutdown()
                if not tries_left:
                    raise
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def test_an_address_where_nothing_listens_is_told_at_once(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"ray://127.0.0.1:{closed.getsockname()[1]}"
        home = Home(tmp_path)
        home.write("all", ROWS)
        asked = SETTINGS.knowledge.model_dump() | {"engine": "ray", "ray": {"address": address}}
        with pytest.raises(SettingsError, match=rf"knowledge.ray.address '{address}' cannot be reached"):
            home.build("out", ["all"], settings=Settings(knowledge=asked))


def test_a_cluster_that_loses_an_actor_ends_in_the_bytes_of_one_process_and_redoes_one_shard(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Letters] = []

    def make(_: object) -> Letters:
        asked.append(Letters())
        return asked[-1]

    monkeypatch.setattr(knowledge.run, "make_reasoner", make)
    monkeypatch.setattr(knowledge.storage.buckets, "BUCKET_ROWS", 128)
    home = Home(tmp_path)
    home.write("all", ROWS)
    small = SETTINGS.knowledge.model_dump() | {"shard_rows": 4}
    with_ray = Settings(knowledge=small | {"engine": "ray", "ray": {"workers": 2}})
    clustered = home.build("clustered", ["all"], settings=with_ray)
    assert [text for reasoner in asked for text in reasoner.asked] == [], "the cluster left something to read"

    record = [json.loads(line) for line in (tmp_path / "record.jsonl").read_text().splitlines()]
    assert (tmp_path / "killed").exists()
    assert len({entry["pid"] for entry in record}) == 3, "two actors, and one in place of the dead one"
    local = home.build("local", ["all"], cache="other", settings=Settings(knowledge=small))
    alone = Counter(text for reasoner in asked for text in reasoner.asked)
    again = Counter(text for entry in record for text in entry["texts"])
    assert alone <= again
    again.subtract(alone)
    redone = sorted(again.elements())
    assert redone in [sorted(entry["texts"]) for entry in record], "the shard that was being read, and no other"
    assert files(clustered) == files(local)
