"""A refresh makes only users whose rows changed, and ends in what a build from scratch ends in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from unit.knowledge.knowledge_worlds import TITLES, Letters, Row, log_rows, run_of, write_source

import knowledge.run
import knowledge.storage.buckets
from core import Settings
from core.matrix import open_matrix
from core.segments import read_segments
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

    def build(
        self,
        out: str,
        sources: Sequence[str],
        cache: str = "cache",
        settings: Settings = SETTINGS,
        earlier: str | None = None,
    ) -> Path:
        target = self.place / out
        target.mkdir()
        run = self.run(sources, cache, settings)
        replace(run, earlier=self.place / earlier if earlier else None).build(target)
        return target


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def content(folder: Path) -> dict[str, Any]:
    """What an artifact says, however it is cut into segments: of a table's rows those that count."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name, inside = str(path.relative_to(folder)), path.parent if path.stem.isdigit() else path
        if path.is_dir():
            continue
        if path.suffix == ".parquet":
            found[str(inside.relative_to(folder))] = _counting(read_segments(inside))
        elif path.suffix == ".npy":
            found[str(inside.relative_to(folder))] = np.array(open_matrix(inside.with_suffix(".npy"))).tobytes()
        else:
            found[name] = path.read_bytes()
    return found


def _counting(table: pa.Table) -> list[dict[str, Any]]:
    rows = table.to_pylist()
    if "text_source" in table.column_names:  # a user's newest text
        return sorted({row.get("user_id", row.get("scenario")): row for row in rows}.values(), key=str)
    if "categories" in table.column_names:  # an item's last row
        return sorted({row["item_id"]: row for row in rows}.values(), key=str)
    return rows


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
    first = content(home.build("first", ["all"]))
    assert sorted(made) == list(range(40))
    made.clear()
    sources, expected = LATER[change][0](home), LATER[change][1]
    refreshed = content(home.build("refreshed", sources, earlier="first"))
    assert set(made) == expected
    assert len(made) == len(expected)
    assert refreshed == content(home.build("scratch", sources, cache="other"))
    told = [{name: rows for name, rows in one.items() if name != "made_of.json"} for one in (refreshed, first)]
    assert (told[0] == told[1]) == (change == "a repeated row")


def test_nights_one_after_the_other_link_what_was_there_and_equal_one_run(home: Home, made: list[int]) -> None:
    nights = [home.write("all", ROWS)]
    home.build("0", nights)
    for night in range(1, 12):
        new = [
            (user, k % 8, "home", 500.0 + 10 * night + k, 1)
            for user in (night, night + 20, 60 + night)
            for k in range(4)
        ]
        nights.append(home.write(f"night{night}", new, [*TITLES, *(f"Part {n}" for n in range(night))]))
        made.clear()
        out = home.build(str(night), nights, earlier=str(night - 1))
        assert sorted(made) == [night, night + 20, 60 + night]
    assert content(out) == content(home.build("whole", nights, cache="other"))
    shared = {file.stat().st_ino for file in (home.place / "0").rglob("*.npy")}
    assert shared & {file.stat().st_ino for file in out.rglob("vectors/*.npy")}
    assert all(
        len(list((out / name).iterdir())) <= 9 for name in ("user_pooled/index", "user_prompt/vectors", "catalogue")
    )


def test_a_changed_title_makes_everybody_whose_text_may_name_it(home: Home, made: list[int]) -> None:
    rows = [(u, u % 7, "home", float(k), 1) for u in range(20) for k in range(4)]
    home.write("all", rows)
    home.build("first", ["all"])
    made.clear()
    home.write("renamed", [(0, 0, "home", 900.0, 1)], [*TITLES[:3], "Thin Red Line", *TITLES[4:], "Newest"])
    refreshed = home.build("refreshed", ["all", "renamed"], earlier="first")
    # Every text names the nearest items.
    assert sorted(made) == list(range(20))
    assert content(refreshed) == content(home.build("scratch", ["all", "renamed"], cache="other"))


def test_a_new_item_makes_nobody(home: Home, made: list[int]) -> None:
    home.write("all", ROWS)
    home.build("first", ["all"])
    made.clear()
    home.write("more", [(3, 1, "home", 900.0, 1)], [*TITLES, "Newest", None])
    refreshed = home.build("refreshed", ["all", "more"], earlier="first")
    assert made == [3]
    assert content(refreshed) == content(home.build("scratch", ["all", "more"], cache="other"))


def test_a_user_that_falls_out_of_the_cap_loses_its_prompts_only(home: Home, made: list[int]) -> None:
    capped = Settings(knowledge=SETTINGS.knowledge.model_dump() | {"prompt_users": 2})
    home.write("all", ROWS)
    home.build("first", ["all"], settings=capped)
    made.clear()
    home.write("more", [(30, k % 8, "home", 500.0 + k, 1) for k in range(5)])
    refreshed = home.build("refreshed", ["all", "more"], settings=capped, earlier="first")
    assert set(made) == {1, 30}
    scratch = home.build("scratch", ["all", "more"], cache="other", settings=capped)
    assert content(refreshed) == content(scratch)


def test_the_size_of_buckets_shows_in_nothing(home: Home, made: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    home.write("all", ROWS)
    small = files(home.build("small", ["all"]))
    for rows, count in ((1000, 1), (64, 8)):
        monkeypatch.setattr(knowledge.storage.buckets, "BUCKET_ROWS", rows)
        made.clear()
        assert files(home.build(f"of{count}", ["all"], earlier="small")) == small
        assert made == [], "the same users, in other buckets"


@pytest.mark.parametrize("damaged", ["rows.parquet", "users.parquet"])
def test_what_is_damaged_in_the_cache_is_made_again(home: Home, made: list[int], damaged: str) -> None:
    home.write("all", ROWS)
    first = files(home.build("first", ["all"]))
    [file] = (home.place / "cache").glob(f"log/*/{damaged}")
    whole = file.read_bytes()
    file.write_bytes(whole[:-20] + bytes([whole[-20] ^ 0xFF]) + whole[-19:])
    made.clear()
    assert files(home.build("again", ["all"], earlier="first")) == first
    assert made == []
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "damaged",
    ["made_of.json", "user_pooled/index/0000.parquet", "user_pooled/vectors/0000.npy", "item_text/raw/0000.npy",
     "user_text/0000.parquet", "catalogue/0000.parquet"],
)  # fmt: skip
def test_an_earlier_artifact_that_lacks_a_file_keeps_nothing(home: Home, made: list[int], damaged: str) -> None:
    home.write("all", ROWS)
    first = home.build("first", ["all"])
    home.write("more", [(3, 1, "home", 900.0, 1)], [*TITLES, "Newest"])
    (first / damaged).unlink()
    made.clear()
    refreshed = home.build("refreshed", ["all", "more"], earlier="first")
    assert sorted(made) == list(range(40))
    assert content(refreshed) == content(home.build("scratch", ["all", "more"], cache="other"))


def test_settings_that_shape_users_and_ids_of_another_type_keep_nothing(home: Home, made: list[int]) -> None:
    home.write("all", ROWS)
    home.build("first", ["all"])
    made.clear()
    other = Settings(knowledge=SETTINGS.knowledge.model_dump() | {"thresholds": [3, 6]})
    changed = home.build("changed", ["all"], settings=other, earlier="first")
    assert sorted(made) == list(range(40))
    assert content(changed) == content(home.build("scratch", ["all"], cache="other", settings=other))


def job(place: Path, out: str, dies_at: int = 0) -> subprocess.Popen[bytes]:
    here = Path(__file__).parent
    paths = os.pathsep.join(map(str, (here.parents[2], here.parents[1], here)))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", JOB, str(place), out, str(dies_at)], env=environment)


def test_a_killed_build_leaves_nothing_that_shows(home: Home, made: list[int]) -> None:
    home.write("all", ROWS)
    assert job(home.place, "killed", dies_at=3).wait() == -signal.SIGKILL
    again = files(home.build("again", ["all"]))
    assert again == files(home.build("whole", ["all"], cache="other"))


def test_two_jobs_on_one_cache_end_in_the_same_bytes(home: Home, made: list[int]) -> None:
    home.write("all", ROWS)
    both = [job(home.place, out) for out in ("one", "two")]
    assert [process.wait() for process in both] == [0, 0]
    assert files(home.place / "one") == files(home.place / "two")
    assert files(home.build("after", ["all"], earlier="one")) == files(home.place / "one")
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
        table = read_segments(out / name)
        assert table.num_rows == 0
        assert table.schema.field("user_id").type == pa.int64()
    assert np.array(open_matrix(out / "user_pooled" / "vectors.npy")).shape == (0, 8)
