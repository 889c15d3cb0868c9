from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from unit.knowledge.knowledge_worlds import GENRES, TITLES, Build, log_rows, micros, run_of, write_source

from core import Settings
from core.clock import to_micros
from core.matrix import open_matrix
from core.segments import read_segments, table_path
from core.tables import SCENARIOS, conform, knowledge_schema, knowledge_text_schema
from knowledge import load_pooler

KINDS = {"item_text": "item_id", "user_pooled": "user_id", "user_prompt": "user_id", "scenario": "scenario"}


def snapshots(out: Path, kind: str) -> dict[tuple[Any, int], bytes]:
    """(id, watermark) -> the vector's bytes."""
    index = pq.read_table(out / kind / "index")
    vectors = np.array(open_matrix(out / kind / "vectors.npy"))
    rows = index.select([KINDS[kind], "watermark", "row"]).to_pylist()
    return {(r[KINDS[kind]], to_micros(r["watermark"])): vectors[r["row"]].tobytes() for r in rows}


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def before(found: dict[tuple[Any, int], bytes], second: float) -> dict[tuple[Any, int], bytes]:
    return {key: vector for key, vector in found.items() if key[1] <= micros(second)}


def test_every_table_has_its_schema_its_order_and_one_version(build: Build) -> None:
    out, built = build(log_rows())
    versions = json.loads((out / "versions.json").read_text())
    assert versions == dict(built.versions)
    for folder, key in KINDS.items():
        index = pq.read_table(out / folder / "index")
        schema = knowledge_schema(key, pa.string() if key == "scenario" else pa.int64())
        assert index.schema == conform(index, schema, folder).schema
        assert index.num_rows == built.rows[folder] > 0
        order = list(zip(index["watermark"].to_pylist(), index[key].to_pylist(), strict=True))
        assert order == sorted(order)
        vectors = np.array(open_matrix(out / folder / "vectors.npy"))
        assert vectors.dtype == np.float32
        assert len(np.unique(vectors, axis=0)) > len(vectors) / 2
        assert sorted(index["row"].to_pylist()) == list(range(len(vectors)))
        assert set(index["version"].to_pylist()) == {versions[folder.removeprefix("user_")]}
    for name, key, kind in (("user", "user_id", pa.int64()), ("scenario", "scenario", pa.string())):
        text = read_segments(table_path(out, f"{name}_text"))
        assert text.schema == knowledge_text_schema(key, kind)
        assert set(text["text_source"].to_pylist()) == {"summary"}


def test_the_same_again_has_the_same_bytes(build: Build, tmp_path: Path) -> None:
    first, _ = build(log_rows())
    again, _ = build(log_rows())
    fresh, _ = build(log_rows()[::-1], store=tmp_path / "other")
    assert files(first) == files(again)
    other = {"made_of.json": files(first)["made_of.json"]}  # names the bytes of its sources
    assert files(first) == files(fresh) | other


def test_rows_after_a_watermark_change_nothing_of_its_snapshot(build: Build) -> None:
    rows = log_rows()
    planted = [(u, 7, "search", 75.0, 1) for u in range(6)] + [(99, 0, "home", 75.5, 1)]
    plain, _ = build(rows)
    future, _ = build(rows + planted)
    for kind in ("user_pooled", "user_prompt", "scenario"):
        old, new = before(snapshots(plain, kind), 70), before(snapshots(future, kind), 70)
        assert old == new
        assert old


def test_a_label_changes_no_snapshot_that_its_own_row_can_read(build: Build) -> None:
    rows = log_rows()
    plain, _ = build(rows, start=0.0)
    for position in (2, 5, 8):
        user, item, scenario, second, label = rows[position]
        flipped = [*rows[:position], (user, item, scenario, second, 1 - label), *rows[position + 1 :]]
        changed, _ = build(flipped, start=0.0)
        for kind in ("user_pooled", "user_prompt"):
            old = {k: v for k, v in snapshots(plain, kind).items() if k[0] == user and k[1] <= micros(second)}
            new = {k: v for k, v in snapshots(changed, kind).items() if k[0] == user and k[1] <= micros(second)}
            assert old == new


def test_a_user_of_whom_there_is_nothing_to_tell_gets_no_prompt_vector(build: Build) -> None:
    never = [(77, k % 8, "home", 10.0 * k, 0) for k in range(6)]
    unknown = [(78, 500, "home", 10.0 * k, 1) for k in range(6)]
    out, _ = build([*log_rows(), *never, *unknown])
    assert {user for user, _ in snapshots(out, "user_prompt")} == set(range(6))
    assert {user for user, _ in snapshots(out, "user_pooled")} == {*range(6), 77}


def test_three_rows_in_one_second_read_none_of_each_other(build: Build) -> None:
    triple = [(50, k, "home", 60.0, 1) for k in range(3)]
    out, _ = build(log_rows() + triple)
    assert [w for u, w in snapshots(out, "user_pooled") if u == 50] == [micros(60) + 1]
    assert [w for u, w in snapshots(out, "user_prompt") if u == 50] == [micros(60) + 1]


def test_compressors_see_no_row_after_training_starts(build: Build, tmp_path: Path) -> None:
    rows = log_rows()
    later = [(u, i, s, t, 1 - y) if t > 45 else (u, i, s, t, y) for u, i, s, t, y in rows] + [(70, 3, "home", 90.0, 1)]
    plain, one = build(rows, store=tmp_path / "one")
    changed, two = build(later, store=tmp_path / "two")
    for folder in KINDS:
        name = Path(folder) / "compressor.safetensors"
        assert (plain / name).read_bytes() == (changed / name).read_bytes()
    assert dict(one.versions) == dict(two.versions)


def test_a_later_window_uses_the_first_windows_compressor_and_keeps_its_vectors(build: Build) -> None:
    rows = log_rows(rows=24)
    first, one = build([r for r in rows if r[3] < 120])
    second, two = build([r for r in rows if r[3] < 120], [r for r in rows if r[3] >= 120])
    assert dict(one.versions) == dict(two.versions)
    for kind in KINDS:
        old, new = snapshots(first, kind), snapshots(second, kind)
        assert old.items() <= new.items()


def test_rows_at_or_after_now_are_not_read(build: Build) -> None:
    rows = log_rows()
    cut, _ = build([r for r in rows if r[3] < 60])
    all_rows, _ = build(rows, now=60.0)
    assert snapshots(cut, "user_pooled") == snapshots(all_rows, "user_pooled")


def test_a_user_or_item_without_anything_to_tell_has_no_vector(build: Build) -> None:
    titles = [*TITLES[:7], None]
    unknown = [(60, 500, "home", t, 1) for t in (1.0, 2.0, 3.0)]
    out, built = build(log_rows() + unknown + [(61, 0, "home", 1.0, 1)], titles=titles)
    assert not {60, 61} & {user for user, _ in snapshots(out, "user_pooled")}
    assert not {60, 61} & set(pq.read_table(out / "user_text")["user_id"].to_pylist())
    assert built.rows["item_text"] == 7


@pytest.mark.parametrize("half_life", [None, 25])
def test_the_push_path_computes_the_bytes_of_the_batch(build: Build, settings: Settings, half_life: int | None) -> None:
    rows = log_rows()
    knowledge = settings.knowledge.model_dump() | {"pooled_half_life": half_life and dt.timedelta(seconds=half_life)}
    out, built = build(rows, settings=Settings(knowledge=knowledge))
    pooler = load_pooler(out)
    assert pooler.version == built.versions["pooled"]
    for (user, watermark), expected in snapshots(out, "user_pooled").items():
        seen = [r for r in rows if r[0] == user and micros(r[3]) < watermark]
        positives, negatives = ([(r[1], micros(r[3])) for r in seen if r[4] == label] for label in (1, 0))
        vector = pooler.pool(positives[::-1], [*negatives, (777, watermark - 1)], watermark)
        assert vector is not None
        assert vector.tobytes() == expected
    assert pooler.pool([], [(777, 5)], 9) is None
    _, plain = build(rows)
    assert (plain.versions["pooled"] == built.versions["pooled"]) == (half_life is None)


def test_lag_and_cap_and_kinds_follow_the_settings(build: Build, settings: Settings) -> None:
    knowledge = settings.knowledge.model_dump() | {"user_vectors": ["prompt"], "prompt_users": 2}
    knowledge["lag"] = knowledge["lag"] | {"prompt": "PT5S"}
    out, built = build(log_rows(), settings=Settings(knowledge=knowledge))
    index = pq.read_table(out / "user_prompt" / "index").to_pylist()
    assert {(r["event_timestamp"] - r["watermark"]).total_seconds() for r in index} == {5.0}
    assert len({r["user_id"] for r in index}) == 2
    assert "pooled" not in built.versions
    assert not (out / "user_pooled").exists()


@pytest.mark.parametrize("change", [{"layer": 1}, {"pooling": "last"}, {"user_dim": 4}])
def test_what_makes_a_vector_changes_its_version(build: Build, settings: Settings, change: dict[str, Any]) -> None:
    _, plain = build(log_rows())
    _, other = build(log_rows(), settings=Settings(knowledge=settings.knowledge.model_dump() | change))
    assert plain.versions["pooled"] != other.versions["pooled"]


def test_a_start_before_any_snapshot_still_gives_vectors(build: Build) -> None:
    out, built = build(log_rows(), start=0.0)
    assert built.rows["user_pooled"] > 0
    assert np.abs(np.array(open_matrix(out / "user_pooled" / "vectors.npy"))).max() > 0


def test_summaries_name_what_was_liked_and_are_the_same_every_time(build: Build) -> None:
    own = [(90, 1, "home", 0, 1), (90, 2, "home", 1, 1), (90, 6, "search", 2, 0), (90, 3, "home", 50, 1)]
    texts = [pq.read_table(build(own + log_rows())[0] / "user_text").to_pylist() for _ in range(2)]
    assert texts[0] == texts[1]
    text = {row["user_id"]: row["text"] for row in texts[0]}[90]
    liked = 'Home: 2 liked, lately "Green Fields (Drama)", "Blue Moon (Romance, Drama)"; mostly Drama, Romance.'
    assert text.splitlines()[:2] == ["Based on 3 interactions, 2 of them positive.", liked]
    assert text.splitlines()[2].startswith('Closest in meaning: "')


def test_with_200_scenarios_another_sentence_changes_its_own_vector_and_no_other(
    build: Build, settings: Settings, tmp_path: Path
) -> None:
    """Not even by what standardises them: the version stays, and the window after has the same vectors for all others."""
    crowd = settings.model_copy(update={"knowledge": settings.knowledge.model_copy(update={"max_tokens": 96})})

    def vectors(changed: str, name: str) -> tuple[dict[tuple[Any, int], bytes], str]:
        source = write_source(tmp_path / name, log_rows())
        told = [*["home", "search"], *[f"s{k:03d}" for k in range(198)]]
        sentences = [
            f"Red {TITLES[k % 8]} number {k} {changed if k == 77 else 'and'} {GENRES[k % 7]}." for k in range(200)
        ]
        columns = {"scenario": told, "title": [f"Page {k}" for k in range(200)], "description": sentences}
        pq.write_table(pa.table(columns, schema=SCENARIOS), source / "scenarios.parquet")
        out = tmp_path / f"{name}-out"
        out.mkdir()
        built = run_of(crowd, [source], tmp_path / "cache", tmp_path / "store").build(out)
        return snapshots(out, "scenario"), built.versions["scenario"]

    (before, old), (after, new) = vectors("and", "one"), vectors("White Noise", "two")
    assert old == new and len(before) == 200
    assert [key[0] for key in before if before[key] != after[key]] == ["s075"]


def test_a_catalogue_without_any_text_is_built_and_what_is_lost_is_said(build: Build, caplog: Any) -> None:
    """Categories alone are no text; texts that come later are compressed by what was fitted on texts."""
    with caplog.at_level("WARNING"):
        out, built = build(log_rows(), titles=[None] * len(TITLES))
    assert "no item has a text (data.item_text: title)" in caplog.text
    assert (built.rows["item_text"], built.rows["user_pooled"], built.rows["user_text"]) == (0, 0, 0)
    assert built.rows["scenario"] == 2 * len({m for _, m in snapshots(out, "scenario")})
    later, again = build(log_rows())
    assert again.versions["item_text"] != built.versions["item_text"]
    assert np.abs(np.array(open_matrix(later / "item_text" / "vectors.npy"))).max() > 0
