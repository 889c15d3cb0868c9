"""Buckets, their files and their merge: whatever the number of buckets, parts and sources, the users' rows are the same."""

from __future__ import annotations

import hashlib
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
from core.tables import TIMESTAMP, IdTypes, interactions_schema
from knowledge.log.sources import Catalogue, Log
from knowledge.log.store import open_log
from knowledge.storage import buckets, merge
from knowledge.storage.buckets import HASH_BITS, Bucket, buckets_for, named, share_of
from knowledge.storage.merge import Merge, vectors_column
from knowledge.storage.user_tables import UserTables

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
            users = [log.users(bucket).to_pylist() for bucket in log.buckets]
            rows = [row for _, found in log.logs() for row in rows_of(found)]
            whole, everybody = rows_of(log.log(Bucket(1, 0))), log.users(Bucket(1, 0)).to_pylist()
        # Alone, as the users of another log, each has the same hash.
        alone = [row for row in sources[0] if row[0] == sources[0][0][0]]
        with open_log([write_log(place / "alone", alone, kind)], place / "other", CATALOGUE, END) as log:
            [one] = log.users(Bucket(1, 0)).to_pylist()
    expected = [(user_id(u, kind), i, s, t, label) for (u, i, s, t), label in last_labels(sources).items()]
    assert sorted(rows) == sorted(expected) == sorted(whole)
    flat = [user for found in users for user in found]
    assert [user["user_id"] for user in sorted(flat, key=lambda u: u["user_id"])] == sorted(
        {row[0] for row in expected}
    )
    assert sorted(flat, key=lambda u: u["user_id"]) == everybody, "its key does not depend on the buckets"
    hashes = {user["user_id"]: user["hash"] for user in flat}
    assert hashes[one["user_id"]] == one["hash"]


@given(sources=logs, kind=id_types, data=st.data())
@examples(20)
def test_a_users_key_changes_when_a_row_does_and_no_other_users(
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
    keys = []
    for name, log in (("before", last), ("after", changed)):
        folders = [write_log(place / name / str(n), rows, kind) for n, rows in enumerate(log)]
        with open_log(folders, place / "cache", CATALOGUE, END) as opened:
            keys.append({user["user_id"]: user["key"] for user in opened.users(Bucket(1, 0)).to_pylist()})
    before, after = keys
    assert {user for user in before | after if before.get(user) != after.get(user)} == {user_id(row[0], kind)}


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


def merged(folder: Path, parts: list[list[Snapshot]], kind: pa.DataType) -> dict[str, bytes]:
    with Merge(folder / ".merge") as work:
        for part in parts:
            work.add("pooled", vectors_of(part, kind))
            work.add("text", texts_of(part, kind))
        rows = work.matrix("pooled", folder, "pooled", "p1", 7, DIM)
        assert rows == work.texts("text", folder / "text.parquet", 7) == sum(map(len, parts))
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
    index, expected = pq.read_table(folder / "index.parquet"), vectors_of(ordered, kind)
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
    texts = pq.read_table(folder / "text.parquet")
    assert texts.select(["user_id", "text", "version"]).to_pylist() == [
        {name: row[name] for name in ("user_id", "text", "version")} for row in texts_of(ordered, kind).to_pylist()
    ]


def kept_rows(hashes: list[int]) -> dict[str, pa.Table]:
    users = pa.table({"user_id": pa.array(hashes, pa.int64()), "key": pa.array([f"k{h}" for h in hashes], pa.string())})
    return {"users": users, "pooled": pa.table({"user_id": users["user_id"], "n": pa.array(hashes, pa.int64())})}


hash_lists = st.lists(st.integers(0, 2**HASH_BITS - 1), unique=True, max_size=12)


@given(hashes=hash_lists, saved=st.sampled_from([1, 2, 4, 8]), read=st.sampled_from([1, 2, 4, 8]))
@examples(40)
def test_what_was_kept_is_found_by_buckets_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, hashes: list[int], saved: int, read: int
) -> None:
    tables = UserTables(tmp_path_factory.mktemp("cache"), "recipe")
    for bucket in (Bucket(saved, number) for number in range(saved)):
        tables.save(bucket, "catalogue", kept_rows([h for h in hashes if bucket.low <= h <= bucket.high]))
    for bucket in (Bucket(read, number) for number in range(read)):
        own = [h for h in hashes if bucket.low <= h <= bucket.high]
        parts = [kept.of(pa.array(own, pa.int64())) for kept in tables.load(bucket)]
        for name in ("users", "pooled"):
            found = [user for part in parts for user in part[name]["user_id"].to_pylist()]
            assert sorted(found) == sorted(own)


@given(hashes=hash_lists, data=st.data())
@examples(120)
def test_a_damaged_file_of_kept_users_is_never_read_as_another(
    tmp_path_factory: pytest.TempPathFactory, hashes: list[int], data: st.DataObject
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    tables, bucket, kept = UserTables(cache, "recipe"), Bucket(1, 0), kept_rows(hashes)
    tables.save(bucket, "catalogue", kept)
    [file] = (path for path in cache.rglob("1-0"))
    body = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, body.index(b"\n")) | st.integers(0, len(body) - 1))
    if data.draw(st.booleans()):
        body[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del body[place:]
    file.write_bytes(bytes(body))
    for found in tables.load(bucket):
        assert found.catalogue == "catalogue"
        assert dict(found.tables) == kept
