"""The offline score of a row equals the score over HTTP."""

from __future__ import annotations

import datetime as dt
import shutil

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import WAIT

from core import Window, load_settings, replay, to_micros
from core.contracts.pointers import BundlePointer
from core.tables import TIMESTAMP, conform
from pipeline.commands.serve import running_service
from pipeline.windows import artifact_store, clean_tables, stage_clock, training_start

pytestmark = pytest.mark.e2e
USERS = (1, 7, 33, 999_999)
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def settings(finished):
    return load_settings(finished.file)


@pytest.fixture(scope="module")
def candidates(settings):
    """Items that differ in every field, among them ones that training never saw and ones without any row."""
    catalogue = pq.read_table(artifact_store(settings).get("catalogue").file("items.parquet"))
    rows = catalogue.to_pylist()
    picked = rows[:: max(len(rows) // 40, 1)] + [r for r in rows if r["item_rows"] is None][:5]
    for column in ("title", "first_genre", "year", "item_rows", "item_positives", "item_rate"):
        assert len({r[column] for r in picked}) > 1, f"candidates do not differ in {column}"
    return list(dict.fromkeys(r["item_id"] for r in picked))


def offline_scores(settings, items, at: dt.datetime, folder) -> dict[tuple[int, int], float]:
    """Score every user and item as training would see them at a time: joined by Feast, read from the matrices."""
    from feature_repo import build_training_table
    from models import load_bundle, load_dataset, request_batch_from_rows

    store, window = artifact_store(settings), Window()
    clean = clean_tables(settings, window)
    probe, out = folder / "probe", folder / "out"
    shutil.copytree(clean[-1].path, probe)
    out.mkdir()
    _probe_rows(clean[-1].path, items, at).to_parquet(probe / "interactions.parquet")
    build_training_table(
        settings,
        replay(at + dt.timedelta(seconds=1)),
        sources=[*(m.path for m in clean), probe],
        features=store.get("features").path,
        knowledge=store.get("knowledge").path,
        out=out,
        window=Window(at, None),
        train_start=training_start(settings, clean),
    )
    data = load_dataset(out)
    champion = BundlePointer.read(store.root)
    assert champion is not None
    scores = load_bundle(champion.folder(store.root)).score(
        request_batch_from_rows(data, np.arange(data.rows.num_rows))
    )
    keys = zip(data.rows["user_id"].to_pylist(), data.rows["item_id"].to_pylist(), strict=True)
    return dict(zip(keys, np.asarray(scores.probability).tolist(), strict=True))


class _probe_rows:  # noqa: N801
    """Interactions of every probed user with every item, all at one time."""

    def __init__(self, source, items, at):
        schema = pq.read_schema(source / "interactions.parquet")
        pairs = [(user, item) for user in USERS for item in items]
        moment = pa.array([to_micros(at)] * len(pairs)).cast(TIMESTAMP)
        columns = {
            "user_id": [user for user, _ in pairs],
            "item_id": [item for _, item in pairs],
            "scenario": ["comedy"] * len(pairs),
            "event_timestamp": moment,
            "label": pa.array([0] * len(pairs), pa.int8()),
            "weight": pa.array([1.0] * len(pairs), pa.float32()),
            "created_timestamp": moment,
        }
        self.table = conform(pa.table(columns), schema.remove_metadata(), "interactions")

    def to_parquet(self, path):
        pq.write_table(self.table, path)


@pytest.fixture(scope="module")
def over_http(settings, candidates):
    found, degraded = {}, {}
    with running_service(settings, wait_seconds=WAIT) as url:
        for user in USERS:
            body = {"user_id": user, "scenario": "comedy", "candidates": candidates, "k": len(candidates)}
            answer = httpx.post(url + "/rank", json=body, timeout=WAIT).raise_for_status().json()
            found |= {(user, item["item_id"]): item["score"] for item in answer["items"]}
            degraded[user] = answer["degraded"]
    return found, degraded


def test_offline_and_http_scores_are_equal(settings, candidates, over_http, tmp_path):
    found, _ = over_http
    expected = offline_scores(settings, candidates, stage_clock(settings, Window()).now(), tmp_path)

    assert found.keys() == expected.keys()
    assert len(found) == len(USERS) * len(candidates)
    worst = max(found, key=lambda key: abs(found[key] - expected[key]))
    assert abs(found[worst] - expected[worst]) < TOLERANCE, f"user and item {worst}"


def test_a_skew_of_features_would_be_seen(settings, candidates, over_http, tmp_path):
    found, _ = over_http
    skewed = offline_scores(
        settings, candidates, stage_clock(settings, Window()).now() - dt.timedelta(days=3650), tmp_path
    )
    assert max(abs(found[key] - skewed[key]) for key in found) > 100 * TOLERANCE


def test_an_unknown_user_gets_an_answer_that_says_so(over_http):
    _, degraded = over_http
    assert "user_stats:missing" in degraded[999_999]
    assert degraded[1] == []
