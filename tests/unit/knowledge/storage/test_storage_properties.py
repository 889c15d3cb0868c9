"""Buckets and their merge: whatever the number of buckets, parts and sources, the users' rows are the same."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from core.matrix import open_matrix
from core.segments import FANOUT, read_segments
from core.tables import TIMESTAMP, IdTypes, interactions_schema
from knowledge.log.catalogue import Catalogue
from knowledge.log.sources import Log
from knowledge.log.store import open_log
from knowledge.storage import buckets, merge
from knowledge.storage.buckets import HASH_BITS, Bucket, buckets_for, named, share_of
from knowledge.storage.matrix import IndexedMatrix
from knowledge.storage.merge import Merge, vectors_column
from knowledge.texts.scenario_counts import ScenarioStatistics, count_scenarios

SCENARIOS = [("home", "Home", "The feed."), ("search", "Search", "A query.")]
CATALOGUE = Catalogue(pa.array(range(4)), np.zeros(4, np.int64), [""] * 4, [[]] * 4, SCENARIOS)
END = 1_000
DIM = 3
# user, item, scenario, microsecond, label
LogRow = tuple[int, int, str, int, bool]
Snapshot = tuple[int, int]

powers = st.integers(0, 16).map(lambda power: 1 << power)
log_row = st.tuples(
    st.integers(0, 9), st.integers(0, 3), st.sampled_from(["home", "search"]), st.integers(0, 5), st.booleans()
)
logs = st.lists(st.lists(log_row, min_size=1, max_size=15), min_size=1, max_size=3)
snapshots = st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 6)), unique=True, max_size=25)
id_types = st.sampled_from([pa.int64(), pa.string()])


def user_id(number: int, kind: pa.DataType) -> Any:
    return number if kind == pa.int64() else f"u{number}"


@given(of=powers, number=st.integers(0, 2**HASH_BITS - 1), other=powers)
@examples(200)
def test_a_hash_is_in_one_bucket_of_any_number_of_them(of: int, number: int, other: int) -> None:
    width = (1 << HASH_BITS) // of
    place = number // width
    near = [Bucket(of, n) for n in {0, max(0, place - 1), place, min(of - 1, place + 1), of - 1}]
    assert [bucket.number for bucket in near if bucket.low <= number <= bucket.high] == [place]
    assert (Bucket(of, 0).low, Bucket(of, of - 1).high) == (0, 2**HASH_BITS - 1)
    theirs = Bucket(other, number // ((1 << HASH_BITS) // other))
    assert theirs.overlaps(Bucket(of, place)) and Bucket(of, place).overlaps(theirs)
    for bucket in near:
        inside = max(bucket.low, theirs.low) <= min(bucket.high, theirs.high)
        assert bucket.overlaps(theirs) == inside == theirs.overlaps(bucket)
    assert named(bucket.name for bucket in near) == sorted(near)


@given(rows=st.integers(0, 1 << 22), parts=st.integers(1, 70))
@examples(100)
def test_parts_have_all_of_every_bucket_between_them(rows: int, parts: int) -> None:
    every = buckets_for(rows)
    assert len(every) * buckets.BUCKET_ROWS >= rows
    shares: dict[Bucket, list[tuple[int, int] | None]] = {bucket: [] for bucket in every}
    for number in range(1, parts + 1):
        for bucket, own in share_of(every, (number, parts)):
            shares[bucket].append(own)
    for found in shares.values():
        if found != [None]:
            assert found == [(rank + 1, len(found)) for rank in range(len(found))]


def write_log(folder: Path, rows: list[LogRow], kind: pa.DataType) -> Path:
    folder.mkdir(parents=True)
    users, items, scenarios, times, labels = zip(*rows, strict=True)
    schema = interactions_schema(IdTypes(kind, pa.int64()))
    stamps = pa.array(times, pa.int64()).cast(TIMESTAMP)
    found = [[user_id(u, kind) for u in users], items, scenarios, stamps, [int(label) for label in labels]]
    columns = [c if isinstance(c, pa.Array) else pa.array(c, f.type) for c, f in zip(found, schema, strict=False)]
    weights = pa.array([1.0] * len(rows), pa.float32())
    pq.write_table(pa.table([*columns, weights, stamps], schema=schema), folder / "interactions.parquet")
    return folder


def rows_of(log: Log) -> list[tuple[Any, ...]]:
    names = [name for name, _, _ in SCENARIOS]
    return [
        (log.user_ids[int(u)].as_py(), int(i), names[s], int(t), bool(label))
        for u, i, s, t, label in zip(log.users, log.items, log.scenarios, log.times, log.labels, strict=True)
    ]


def last_labels(sources: list[list[LogRow]]) -> dict[tuple[int, int, str, int], bool]:
    return {row[:4]: row[4] for rows in sources for row in rows}


@given(sources=logs, kind=id_types, size=st.integers(1, 20))
@examples(25)
def test_each_user_is_in_one_bucket_with_all_rows(
    tmp_path_factory: pytest.TempPathFactory, sources: list[list[LogRow]], kind: pa.DataType, size: int
) -> None:
    place = tmp_path_factory.mktemp("log")
    folders = [write_log(place / str(number), rows, kind) for number, rows in enumerate(sources)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(buckets, "BUCKET_ROWS", size)
        with open_log(folders, place / "cache", CATALOGUE, END) as log:
            places = [(bucket, found) for bucket, found in log.logs()]
            rows = [row for _, found in places for row in rows_of(found)]
            whole, first = log.log(Bucket(1, 0)), pa.array([user_id(sources[0][0][0], kind)], kind)
            everybody, hashes, one = rows_of(whole), log.hashes(whole.user_ids), log.hashes(first)
            log.gather(first)
            own = [row for _, found in log.logs() for row in rows_of(found)]
        # Alone, as the user of another log, it has the same hash.
        alone = [row for row in sources[0] if row[0] == sources[0][0][0]]
        with open_log([write_log(place / "alone", alone, kind)], place / "other", CATALOGUE, END) as log:
            assert log.hashes(first).tolist() == one.tolist()
    expected = [(user_id(u, kind), i, s, t, label) for (u, i, s, t), label in last_labels(sources).items()]
    assert sorted(rows) == sorted(expected) == sorted(everybody)
    assert sorted(own) == sorted(row for row in expected if row[0] == first[0].as_py()), "gathered alone"
    known = dict(zip(whole.user_ids.to_pylist(), hashes.tolist(), strict=True))
    for bucket, found in places:
        assert all(bucket.low <= known[user] <= bucket.high for user in found.user_ids.to_pylist())


@given(sources=logs, kind=id_types, data=st.data())
@examples(20)
def test_users_of_sources_that_came_or_went_have_changed_and_no_others(
    tmp_path_factory: pytest.TempPathFactory, sources: list[list[LogRow]], kind: pa.DataType, data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("log")
    last = [list({row[:4]: row for row in rows}.values()) for rows in sources]
    number = data.draw(st.integers(0, len(last) - 1))
    at = data.draw(st.integers(0, len(last[number]) - 1))
    row = last[number][at]
    changed = [list(rows) for rows in last]
    how = data.draw(st.sampled_from(["label", "time", "item", "gone"]))
    if how == "gone" and len(changed[number]) > 1:
        del changed[number][at]
    else:
        new = {"time": (*row[:3], row[3] + 100, row[4]), "item": (row[0], row[1] + 10, *row[2:])}
        changed[number][at] = new.get(how, (*row[:4], not row[4]))
    nothing, cache = pa.array([], pa.int64()), place / "cache"
    with open_log(
        [write_log(place / "before" / str(n), rows, kind) for n, rows in enumerate(last)], cache, CATALOGUE, END
    ) as then:
        names = then.names
        assert _list(then.changed(names, nothing, None)) == []
        of_item = _list(then.changed(names, pa.array([row[1]]), None))
        assert of_item == sorted({user_id(r[0], kind) for rows in last for r in rows if r[1] == row[1]})
    folders = [write_log(place / "after" / str(n), rows, kind) for n, rows in enumerate(changed)]
    with open_log(folders, cache, CATALOGUE, END) as now:
        found = _list(now.changed(names, nothing, None))
        assert now.changed(("gone", *names), nothing, None) is None
        most = data.draw(st.integers(1, 4))
        capped = set(_list(now.changed(names, nothing, most)))
        active = [set(part.to_pylist()) for part in (now.most_active(most), _most_active(last, kind, most))]
    expected = {user_id(row[0], kind)} if last != changed else set()
    assert set(found) == expected
    assert capped == expected | (active[0] ^ active[1])


def _list(found: pa.Array | None) -> list[Any]:
    assert found is not None
    return list(found.to_pylist())


def _most_active(sources: list[list[LogRow]], kind: pa.DataType, most: int) -> pa.Array:
    """By rows of distinct files, ties by the smaller id."""
    files = {tuple(sorted(rows)) for rows in sources}
    counts = Counter(user_id(row[0], kind) for rows in files for row in rows)
    return pa.array(sorted(counts, key=lambda user: (-counts[user], user))[:most], kind)


def vectors_of(found: list[Snapshot], kind: pa.DataType) -> pa.Table:
    """A bucket's table of vectors; each vector, digest and hash says whose it is."""
    words = [f"{user}@{watermark}" for user, watermark in found]
    numbers = [np.frombuffer(hashlib.sha256(word.encode()).digest()[: 4 * DIM], np.uint32) for word in words]
    vectors = np.array(numbers, dtype=np.float32).reshape(len(found), DIM)
    return pa.table(
        {
            "user_id": pa.array([user_id(user, kind) for user, _ in found], kind),
            "watermark": pa.array([watermark for _, watermark in found], pa.int64()),
            "vector": vectors_column(vectors),
            "digest": pa.array([hashlib.sha256(b"d" + w.encode()).digest() for w in words], pa.binary(32)),
            "hash": pa.array([hashlib.sha256(w.encode()).hexdigest() for w in words], pa.string()),
        }
    )


def texts_of(found: list[Snapshot], kind: pa.DataType) -> pa.Table:
    return pa.table(
        {
            "user_id": pa.array([user_id(user, kind) for user, _ in found], kind),
            "watermark": pa.array([watermark for _, watermark in found], pa.int64()),
            "text": pa.array([f"user {user}: {'é' * (w % 3)} {w}" if user else "" for user, w in found], pa.string()),
            "version": pa.array([f"v{w}" for _, w in found], pa.string()),
            "text_source": pa.array(["summary"] * len(found), pa.string()),
        }
    )


def merged(
    folder: Path,
    parts: list[list[Snapshot]],
    kind: pa.DataType,
    made: pa.Array | None = None,
    before: Path | None = None,
) -> dict[str, bytes]:
    last = set(newest([one for part in parts for one in part]))
    out = IndexedMatrix(folder, ("user_id", kind), "pooled", "p1", 7, DIM, before)
    with Merge(folder / ".merge", made) as work:
        for part in parts:
            work.add("pooled", vectors_of(part, kind))
            work.add("user_text", texts_of([one for one in part if one in last], kind))
        with out:
            rows = work.matrix("pooled", out, 7, DIM)
        work.texts("user_text", folder, kind, 7, before and before / "user_text")
    assert made is not None or rows == sum(map(len, parts))
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def newest(found: list[Snapshot]) -> list[Snapshot]:
    return list(dict(sorted(found, key=lambda snapshot: snapshot[1])).items())


def told(folder: Path) -> tuple[list[Any], list[bytes], list[Any]]:
    """An artifact's index, vectors and newest texts."""
    index = read_segments(folder / "index")
    vectors = [vector.tobytes() for vector in np.array(open_matrix(folder / "vectors.npy"))]
    texts: dict[Any, Any] = {}
    for row in read_segments(folder / "user_text").to_pylist():
        if row["user_id"] not in texts or texts[row["user_id"]]["watermark"] < row["watermark"]:
            texts[row["user_id"]] = row
    return index.to_pylist(), vectors, sorted(texts.values(), key=lambda row: (row["watermark"], row["user_id"]))


@given(found=snapshots, kind=id_types, data=st.data())
@examples(40)
def test_users_made_again_over_an_earlier_artifact_give_what_all_made_at_once_give(
    tmp_path_factory: pytest.TempPathFactory, found: list[Snapshot], kind: pa.DataType, data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("chain")
    now, before, folder = list(found), [], place / "0"
    merged(folder, [now], kind)
    for night in range(1, data.draw(st.integers(1, 4)) + 1):
        before, now = now, list(now)
        # Later snapshots, ones that are late, and ones that are gone.
        latest = max((watermark for _, watermark in now), default=0)
        new = data.draw(st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 4)), unique=True, max_size=6))
        now += [(user, latest + after) for user, after in new if (user, latest + after) not in now]
        if now and data.draw(st.integers(0, 3)) == 0:
            now.remove(data.draw(st.sampled_from(now)))
        if data.draw(st.integers(0, 3)) == 0:
            late = (data.draw(st.integers(-5, 5)), data.draw(st.integers(0, latest)))
            now += [late] if late not in now else []
        touched = {user for user, _ in set(now) ^ set(before)} | data.draw(st.sets(st.integers(-5, 5), max_size=3))
        made = pa.array(sorted(user_id(user, kind) for user in touched), kind)
        own = [snapshot for snapshot in now if snapshot[0] in touched]
        merged(place / str(night), [own], kind, made, folder)
        folder = place / str(night)
        merged(place / f"whole{night}", [now], kind)
        assert told(folder) == told(place / f"whole{night}")
        assert len(list((folder / "index").iterdir())) <= FANOUT + 1


@given(found=snapshots, kind=id_types, cuts=st.lists(st.integers(0, 25), max_size=4), several=st.integers(1, 9))
@examples(25)
def test_any_split_into_parts_merges_into_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, found: list[Snapshot], kind: pa.DataType, cuts: list[int], several: int
) -> None:
    bounds = [0, *sorted(min(cut, len(found)) for cut in cuts), len(found)]
    parts = [found[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]
    folder = tmp_path_factory.mktemp("parts")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(merge, "_ROWS", several)
        files = merged(folder, parts, kind)
        ordered = sorted(found, key=lambda s: (s[1], user_id(s[0], kind)))
        assert files == merged(tmp_path_factory.mktemp("whole"), [ordered], kind)
    index, expected = read_segments(folder / "index"), vectors_of(ordered, kind)
    assert index["user_id"].to_pylist() == expected["user_id"].to_pylist()
    assert index["watermark"].cast(pa.int64()).to_pylist() == [watermark for _, watermark in ordered]
    assert index["event_timestamp"].cast(pa.int64()).to_pylist() == [watermark + 7 for _, watermark in ordered]
    assert index["prompt_sha256"].to_pylist() == expected["hash"].to_pylist()
    assert index["row"].to_pylist() == list(range(len(found)))
    vectors = [vector.tobytes() for vector in np.array(open_matrix(folder / "vectors.npy"))]
    assert vectors == expected["vector"].to_pylist()
    assert [digest.tobytes() for digest in np.array(open_matrix(folder / "digests.npy"))] == expected[
        "digest"
    ].to_pylist()
    texts, own = read_segments(folder / "user_text"), [s for s in ordered if s in newest(found)]
    assert texts.select(["user_id", "text", "version"]).to_pylist() == [
        {name: row[name] for name in ("user_id", "text", "version")} for row in texts_of(own, kind).to_pylist()
    ]


@given(sources=logs, kind=id_types, apart=st.booleans(), moments=st.lists(st.integers(0, 40), min_size=1, max_size=5))
@examples(30)
def test_scenarios_are_counted_as_by_hand_whether_or_not_sources_overlap(
    tmp_path_factory: pytest.TempPathFactory,
    sources: list[list[LogRow]],
    kind: pa.DataType,
    apart: bool,
    moments: list[int],
) -> None:
    place = tmp_path_factory.mktemp("log")
    if apart:
        sources = [[(u, i, s, t + 10 * n, y) for u, i, s, t, y in rows] for n, rows in enumerate(sources)]
    folders = [write_log(place / str(number), rows, kind) for number, rows in enumerate(sources)]
    with open_log(folders, place / "cache", CATALOGUE, END) as log:
        found = count_scenarios(log, CATALOGUE, moments)
    rows = last_labels(sources)
    for number, (name, _, _) in enumerate(SCENARIOS):
        for moment in moments:
            own = {key: label for key, label in rows.items() if key[2] == name and key[3] < moment}
            seen = ScenarioStatistics(
                len(own), sum(own.values()), len({key[0] for key in own}), len({key[1] for key in own})
            )
            assert found.at(moment)[number] == seen
        before = Counter(key[1] for key, label in rows.items() if key[2] == name and label and key[3] < max(moments))
        assert found.liked[number].tolist() == [before[item] for item in range(4)]
