from __future__ import annotations

import datetime as dt
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit.knowledge.knowledge_worlds import Build, log_rows, run_of, write_source

from core import Settings
from core.errors import MissingArtifactError, SettingsError
from core.matrix import open_matrix
from knowledge import Run, difference, user_state
from knowledge.plan import ARCHITECTURES, Architecture, Device, Texts, architecture_of, cost


def regular(tmp_path: Path, settings: Settings, cache: str = "cache") -> Run:
    source = write_source(tmp_path / "source", log_rows())
    return run_of(settings, [source], tmp_path / cache, tmp_path)


def test_a_users_state_has_its_snapshots_norms_versions_and_neighbours(build: Build) -> None:
    out, built = build(log_rows())
    state = user_state(out, "3")
    assert state["user_id"] == 3
    for kind in ("pooled", "prompt"):
        told = state["kinds"][kind]
        assert told["version"] == built.versions[kind]
        assert len(told["snapshots"]) == 3
        assert all(s["norm"] > 0 for s in told["snapshots"])
        assert sorted(n["user_id"] for n in told["neighbours"]) == [0, 1, 2, 4, 5]
        cosines = [n["cosine"] for n in told["neighbours"]]
        assert cosines == sorted(cosines, reverse=True)
    assert state["text"]["text_source"] == "summary"


def test_a_user_without_history_has_no_vector_and_no_text(build: Build) -> None:
    state = user_state(build(log_rows())[0], "77")
    assert state["text"] is None
    assert [told["snapshots"] for told in state["kinds"].values()] == [[], []]


def test_an_id_that_is_no_integer_is_refused(build: Build) -> None:
    with pytest.raises(SettingsError, match="integers"):
        user_state(build(log_rows())[0], "three")


def test_the_shown_prompt_is_the_one_that_was_read(tmp_path: Path, build: Build, settings: Settings) -> None:
    from core.digest import sha256_text

    newest = user_state(build(log_rows())[0], "3")["kinds"]["prompt"]["snapshots"][-1]
    prompt, rows = regular(tmp_path, settings).user_prompt(3)
    assert prompt is not None
    assert rows == sum(row[0] == 3 for row in log_rows())
    assert sha256_text(prompt) == newest["prompt_sha256"]
    assert regular(tmp_path, settings).user_prompt(77) == (None, 0)


def test_difference_names_who_moved_most_within_one_version(build: Build) -> None:
    rows = log_rows()
    old, _ = build(rows)
    new, _ = build(rows + [(2, 7, "search", 130.0 + k, 1) for k in range(40)])
    assert difference(old, old)["pooled"]["moved"] == 0
    found = difference(old, new)["pooled"]
    assert (found["in_both"], found["added"], found["removed"]) == (6, 0, 0)
    same, _ = build(rows + [(9, k % 8, "home", 130.0 + k, 1) for k in range(4)])
    assert difference(old, same)["pooled"]["added"] == 1


def test_difference_sees_a_moved_vector(build: Build, tmp_path: Path) -> None:
    import shutil

    old, _ = build(log_rows())
    new = tmp_path / "moved"
    shutil.copytree(old, new)
    vectors = np.array(open_matrix(new / "user_pooled" / "vectors.npy"))
    vectors[-1] *= -1.0
    np.save(new / "user_pooled" / "vectors.npy", vectors)
    found = difference(old, new)["pooled"]
    assert found["moved"] == 1
    assert found["most"] == [{"id": 5, "distance": 2.0}]


def test_difference_of_two_versions_compares_neighbourhoods(build: Build, settings: Settings) -> None:
    import pyarrow.parquet as pq

    old, _ = build(log_rows())
    new, _ = build(log_rows(), settings=Settings(knowledge=settings.knowledge.model_dump() | {"layer": 1}))
    found = difference(old, new)["item_text"]
    assert found["versions"][0] != found["versions"][1]
    assert 0 <= found["same_neighbours"] <= 1
    assert (found["neighbours"], found["compared"]) == (3, 8), "of eight items, the nearer half of the others"

    index = pq.read_table(old / "item_text" / "index").to_pylist()
    vectors = np.array(open_matrix(old / "item_text" / "vectors.npy"))
    vectors[index[5]["row"]] *= -1.0
    np.save(new / "item_text" / "vectors.npy", vectors)
    turned = difference(old, new, most=1)["item_text"]
    assert turned["most"] == [{"id": index[5]["item_id"], "same": 0.0}], "its nearest three are its farthest now"
    assert turned["same_neighbours"] < 1
    with pytest.raises(MissingArtifactError, match="in common"):
        difference(old, old / "nothing")


def test_parts_read_everything_between_them_and_the_stage_then_reads_nothing(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from knowledge.reasoners.transformers import TransformersReasoner

    small = Settings(knowledge=settings.knowledge.model_dump() | {"shard_rows": 3})
    run = regular(tmp_path, small)
    marks = [run.read_part(i, 3) for i in (2, 1, 3)]
    assert [json.loads(mark.read_text())["part"] for mark in marks] == [2, 1, 3]

    files = [tmp_path / name for name in ("out", "alone")]
    for folder in files:
        folder.mkdir()
    regular(tmp_path, small, cache="other").build(files[1])

    def forbidden(*_: Any) -> None:
        raise AssertionError("the reasoner was asked again")

    monkeypatch.setattr(TransformersReasoner, "encode", forbidden)
    run.build(files[0])
    names = sorted(p.relative_to(files[0]) for p in files[0].rglob("*") if p.is_file())
    assert all((files[0] / name).read_bytes() == (files[1] / name).read_bytes() for name in names)
    assert len(names) > 10
    with pytest.raises(SettingsError, match="count from 1"):
        run.read_part(4, 3)


def test_ticks_add_snapshots_and_change_no_version(build: Build, settings: Settings) -> None:
    import pyarrow.parquet as pq

    plain, one = build(log_rows())
    knowledge = settings.knowledge.model_dump() | {"every": dt.timedelta(seconds=20)}
    ticked, two = build(log_rows(), settings=Settings(knowledge=knowledge))
    assert dict(one.versions) == dict(two.versions)
    keys = []
    for out in (plain, ticked):
        index = pq.read_table(out / "user_pooled" / "index")
        keys.append(set(zip(index["user_id"].to_pylist(), index["watermark"].to_pylist(), strict=True)))
    assert keys[0] < keys[1]


def test_a_workload_counts_texts_and_what_the_cache_lacks(tmp_path: Path, settings: Settings) -> None:
    run = regular(tmp_path, settings)
    found, sample = run.workload()
    assert {t.kind: t.count for t in found} == {"item_text": 8, "prompt": 18, "scenario": 2}
    assert all(t.new == 1.0 and t.tokens > 0 for t in found)
    assert len(sample) == 18
    short = Settings(knowledge=settings.knowledge.model_dump() | {"max_tokens": 40})
    assert {t.kind: t.cut for t in regular(tmp_path, short).workload()[0]} == {
        "item_text": 0.0,
        "prompt": 1.0,
        "scenario": 1.0,
    }
    run.read_part(1, 1)
    assert all(t.new == 0.0 for t in run.workload()[0])


def test_the_formula_gives_the_known_users_per_second() -> None:
    texts = [Texts("prompt", 24_752, np.full(10, 800), prompted=True)]
    [line] = cost(texts, ARCHITECTURES["chatglm2-6b"], Device(790e12, 4.8e12), share=0.6, price=3.0)
    assert line.hours * 60 == pytest.approx(8.1, rel=0.02)
    assert line.money == pytest.approx(line.hours * 3.0)
    half = cost(texts, ARCHITECTURES["chatglm2-6b"], Device(790e12, 4.8e12), layers=0.5)[0]
    assert half.flops == pytest.approx(line.flops / 2)
    longer = cost(texts, ARCHITECTURES["chatglm2-6b"], Device(790e12, 4.8e12), answer=200)[0]
    assert longer.tokens == 24_752 * 1000
    assert longer.hours > line.hours


def test_an_architecture_is_read_from_a_folder_without_its_weights(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((llama / "config.json").read_bytes())
    architecture = architecture_of(str(tmp_path))
    assert architecture == Architecture(3 * (16 * 16 * 2 + 2 * 16 * 8 + 3 * 16 * 32), 3, 16, causal=True)
    with pytest.raises(SettingsError, match="chatglm2-6b"):
        architecture_of("no-such-model")


def test_a_plan_tries_the_model_it_is_for_and_says_how_well_its_halves_foretell_each_other(
    tmp_path: Path, settings: Settings, llama: Path
) -> None:
    from pipeline.commands.knowledge_plan import make_plan

    plan = functools.partial(make_plan, settings, regular(tmp_path, settings), share=0.6, price=2.0, measure=True)
    own, other, there = (
        plan(model=None, device=None, tflops=None),
        plan(model=str(llama), device="here", tflops=None),
        plan(model=str(llama), device="h200", tflops=None),
    )
    for found in (own, other, there):
        assert found["check"]["factor"] > 0
        assert found["check"]["tokens"] > 0
        assert found["users"] == 18
    assert own["share"] == own["check"]["share"]
    assert other["share"] == other["check"]["share"]
    assert (there["share"], there["tflops"]) == (0.6, 790.0)
    assert own["total"]["tokens"] == other["total"]["tokens"]
    assert own["total"]["flops"] != other["total"]["flops"] == there["total"]["flops"]
    expected = other["total"]["flops"] / (other["tflops"] * 1e12 * other["share"]) / 3600
    assert other["total"]["hours"] == pytest.approx(expected)
    assert other["total"]["money"] == pytest.approx(2.0 * expected)
