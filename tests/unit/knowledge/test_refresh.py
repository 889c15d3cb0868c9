"""A refresh makes only users whose rows changed, and ends in the bytes of a build from scratch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from unit.knowledge.knowledge_worlds import TITLES, Letters, Row, log_rows, run_of, write_source

import knowledge.run
import knowledge.storage.buckets
from core import Settings
from core.matrix import open_matrix
from knowledge import Run
from knowledge.kinds.users import Users
from knowledge.log.sources import Log

SETTINGS = Settings(
    knowledge={
        "thresholds": [3, 6, 9],
        "user_dim": 8,
        "item_dim": 4,
        "user_vectors": ["pooled", "prompt"],
        "max_tokens": 2000,
    }
)
ROWS = log_rows(users=40)
JOB = """
import os, signal, sys
from pathlib import Path
from test_refresh import Home, Users, ROWS
import knowledge.storage.buckets, knowledge.run
from unit.knowledge.knowledge_worlds import Letters
knowledge.storage.buckets.BUCKET_ROWS = 128
knowledge.run.make_reasoner = lambda _: Letters()
done, make = [0], Users._make
def dies(self, bucket, log):
    done[0] += 1
    if done[0] == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return make(self, bucket, log)
Users._make = dies
Home(Path(sys.argv[1])).build(sys.argv[2], ["all"])
"""
Windows = Sequence[Sequence[Row]]


class Home:
    """A place with a store of compressors; each build may have a cache of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def write(self, name: str, rows: Sequence[Row], titles: Sequence[str | None] = TITLES) -> str:
        write_source(self.place / name, rows, titles)
        return name

    def run(self, sources: Sequence[str], cache: str = "cache", settings: Settings = SETTINGS) -> Run:
        return run_of(settings, [self.place / name for name in sources], self.place / cache, self.place / "store")

    def build(self, out: str, sources: Sequence[str], cache: str = "cache", settings: Settings = SETTINGS) -> Path:
        target = self.place / out
        target.mkdir()
        self.run(sources, cache, settings).build(target)
        return target


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The users that were made, in the order of making; the reasoner counts letters."""
    found: list[int] = []
    make = Users._make

    def spy(self: Users, bucket: knowledge.storage.buckets.Bucket, log: Log) -> object:
        found.extend(log.user_ids.to_pylist())
        return make(self, bucket, log)

    monkeypatch.setattr(Users, "_make", spy)
    monkeypatch.setattr(knowledge.run, "make_reasoner", lambda _: Letters())
    monkeypatch.setattr(knowledge.storage.buckets, "BUCKET_ROWS", 128)
    return found


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def corrected(rows: Sequence[Row]) -> list[Row]:
    return [(u, i, s, t, 1 - y) if (u, t) == (4, 30.4) else (u, i, s, t, y) for u, i, s, t, y in rows]


LATER: dict[str, tuple[Callable[[Home], list[str]], set[int]]] = {
    "new rows": (
        lambda h: [
            "all",
            h.write("more", [(7, 1, "home", 500.0, 1), *((90, k, "home", 501.0 + k, 1) for k in range(3))]),
        ],
        {7, 90},
    ),
    "a late row": (lambda h: ["all", h.write("more", [(8, 3, "search", 12.5, 1)])], {8}),
    "a row before training": (lambda h: ["all", h.write("more", [(9, 3, "home", 1.5, 0)])], {9}),
    "a correction": (lambda h: ["all", h.write("more", [(4, (12 + 3 * 5) % 8, "search", 30.4, 0)])], {4}),
    "a corrected source": (lambda h: [h.write("other", corrected(ROWS))], {4}),
    "a withdrawn user": (lambda h: [h.write("other", [r for r in ROWS if r[0] != 5])], set()),
    "a repeated row": (lambda h: ["all", h.write("more", [ROWS[0]])], {ROWS[0][0]}),
}


@pytest.mark.parametrize("change", LATER)
def test_a_refresh_makes_changed_users_only_and_equals_a_build_from_scratch(
    home: Home, made: list[int], change: str
) -> None:
    home.write("all", ROWS)
    first = files(home.build("first", ["all"]))
    assert sorted(made) == list(range(40))
    made.clear()
    sources, expected = LATER[change][0](home), LATER[change][1]
    refreshed = files(home.build("refreshed", sources))
    assert set(made) == expected
    assert len(made) == len(expected)
    assert refreshed == files(home.build("scratch", sources, cache="other"))
    assert (refreshed == first) == (change == "a repeated row")


def test_a_changed_title_makes_everybody_whose_text_may_name_it(home: Home, made: list[int]) -> None:
    rows = [(u, u % 7, "home", float(k), 1) for u in range(20) for k in range(4)]
    home.write("all", rows)
    home.build("first", ["all"])
    made.clear()
    home.write("renamed", [(0, 0, "home", 900.0, 1)], [*TITLES[:3], "Thin Red Line", *TITLES[4:], "Newest"])
    refreshed = home.build("refreshed", ["all", "renamed"])
    # Every text names the nearest items.
    assert sorted(made) == list(range(20))
    assert files(refreshed) == files(home.build("scratch", ["all", "renamed"], cache="other"))


def test_a_new_item_makes_nobody(home: Home, made: list[int]) -> None:
    home.write("all", ROWS)
    home.build("first", ["all"])
    made.clear()
    home.write("more", [(3, 1, "home", 900.0, 1)], [*TITLES, "Newest", None])
    refreshed = home.build("refreshed", ["all", "more"])
    assert made == [3]
    assert files(refreshed) == files(home.build("scratch", ["all", "more"], cache="other"))


def test_a_user_that_falls_out_of_the_cap_loses_its_prompts_only(home: Home, made: list[int]) -> None:
    capped = Settings(knowledge=SETTINGS.knowledge.model_dump() | {"prompt_users": 2})
    home.write("all", ROWS)
    home.build("first", ["all"], settings=capped)
    made.clear()
    home.write("more", [(30, k % 8, "home", 500.0 + k, 1) for k in range(5)])
    refreshed = home.build("refreshed", ["all", "more"], settings=capped)
    assert set(made) == {1, 30}
    scratch = home.build("scratch", ["all", "more"], cache="other", settings=capped)
    assert files(refreshed) == files(scratch)


def test_the_size_of_buckets_shows_in_nothing_and_costs_nothing(
    home: Home, made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    home.write("all", ROWS)
    small = home.build("small", ["all"])
    assert len(list((home.place / "cache" / "users").glob("*/4-*"))) == 4
    made.clear()
    for rows, count in ((1000, 1), (64, 8)):
        monkeypatch.setattr(knowledge.storage.buckets, "BUCKET_ROWS", rows)
        assert files(home.build(f"of{count}", ["all"])) == files(small)
        assert len(list((home.place / "cache" / "users").glob("*/*-*"))) == count
    assert made == []


@pytest.mark.parametrize("damaged", ["users/*/4-3", "users/items/*", "log/*/rows.parquet", "log/*/users.parquet"])
def test_what_is_damaged_in_the_cache_is_made_again(home: Home, made: list[int], damaged: str) -> None:
    home.write("all", ROWS)
    first = files(home.build("first", ["all"]))
    [file] = (home.place / "cache").glob(damaged)
    whole = file.read_bytes()
    file.write_bytes(whole[:-20] + bytes([whole[-20] ^ 0xFF]) + whole[-19:])
    made.clear()
    assert files(home.build("again", ["all"])) == first
    assert (0 < len(made) < 40) == (damaged == "users/*/4-3")
    assert file.read_bytes() == whole


def test_a_damaged_catalogue_of_another_time_makes_everybody(home: Home, made: list[int]) -> None:
    home.write("all", ROWS)
    home.build("first", ["all"])
    [file] = (home.place / "cache" / "users" / "items").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    made.clear()
    home.write("more", [(3, 1, "home", 900.0, 1)], [*TITLES, "Newest"])
    refreshed = home.build("refreshed", ["all", "more"])
    assert sorted(made) == list(range(40))
    assert files(refreshed) == files(home.build("scratch", ["all", "more"], cache="other"))


def job(place: Path, out: str, dies_at: int = 0) -> subprocess.Popen[bytes]:
    here = Path(__file__).parent
    paths = os.pathsep.join(map(str, (here.parents[2], here.parents[1], here)))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", JOB, str(place), out, str(dies_at)], env=environment)


def test_a_killed_build_loses_one_bucket(home: Home, made: list[int]) -> None:
    home.write("all", ROWS)
    assert job(home.place, "killed", dies_at=3).wait() == -signal.SIGKILL
    again = files(home.build("again", ["all"]))
    whole = home.build("whole", ["all"], cache="other")
    kept = sum(1 for user in set(made) if made.count(user) == 1)
    assert again == files(whole)
    assert 0 < kept < 40
    assert len(list((home.place / "cache" / "users").glob("*/4-*"))) == 4


def test_two_jobs_on_one_cache_end_in_the_same_bytes(home: Home, made: list[int]) -> None:
    home.write("all", ROWS)
    both = [job(home.place, out) for out in ("one", "two")]
    assert [process.wait() for process in both] == [0, 0]
    assert files(home.place / "one") == files(home.place / "two")
    made.clear()
    assert files(home.build("after", ["all"])) == files(home.place / "one")
    assert made == []


@pytest.mark.parametrize("parts", [3, 20])
def test_parts_that_run_apart_and_the_stage_after_them_equal_one_run(
    home: Home, made: list[int], parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[Letters] = []

    def make(_: object) -> Letters:
        readers.append(Letters())
        return readers[-1]

    monkeypatch.setattr(knowledge.run, "make_reasoner", make)
    home.write("all", ROWS)
    small = Settings(knowledge=SETTINGS.knowledge.model_dump() | {"shard_rows": 4})
    for part in range(parts, 0, -1):
        home.run(["all"], settings=small).read_part(part, parts)
    apart = [text for reader in readers for text in reader.asked]
    readers.clear()
    staged = home.build("staged", ["all"], settings=small)
    assert [text for reader in readers for text in reader.asked] == []
    whole = home.build("whole", ["all"], cache="other", settings=small)
    assert sorted(apart) == sorted(text for reader in readers for text in reader.asked)
    assert files(staged) == files(whole)


def test_a_log_in_which_nobody_is_due_gives_empty_tables(home: Home, made: list[int]) -> None:
    home.write("all", ROWS)
    late = Settings(knowledge=SETTINGS.knowledge.model_dump() | {"thresholds": [1000]})
    out = home.build("out", ["all"], settings=late)
    for name in ("user_pooled/index", "user_prompt/index", "user_text"):
        table = pq.read_table(out / f"{name}.parquet")
        assert table.num_rows == 0
        assert table.schema.field("user_id").type == pa.int64()
    assert np.array(open_matrix(out / "user_pooled" / "vectors.npy")).shape == (0, 8)
