"""Drift is measured against the champion's own training table, once, and plotted."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from specs import dataset_spec, pointer

from core import Built, Settings, Window
from core.contracts.drift import Drift
from core.contracts.pointers import BundlePointer
from core.tables import TIMESTAMP
from pipeline import plots
from pipeline.drift import measure_drift
from pipeline.findings import drift_finding
from pipeline.windows import artifact_store

SPEC = dataset_spec(user_categorical=["country"], item_dense=["price"])
ROWS = 3000
WINDOWS = [Window.parse(f"2024-01-0{day}", f"2024-01-0{day + 1}") for day in (1, 2)]


@pytest.fixture
def settings(tmp_path):
    return Settings(root=tmp_path)


def publish(settings, number, price):
    """A training table of days 1 to `number`, its train artifact, and that model as champion."""
    store, window = artifact_store(settings), WINDOWS[number - 1]

    def build_table(out):
        rng = np.random.default_rng(number)
        days = rng.integers(0, number, ROWS * number)
        table = {
            "scenario": rng.choice(["home", "search"], len(days)),
            "split": ["train"] * len(days),
            "event_timestamp": pa.array(days * 86_400_000_000 + rng.integers(0, 10**9, len(days))).cast(TIMESTAMP),
            "label": rng.integers(0, 2, len(days)),
            "user_rate": rng.random(len(days)),
            "item_rate": rng.random(len(days)),
            "country": rng.choice(["de", "fr"], len(days)),
            "price": rng.normal(np.where(days == number - 1, price, 10.0), 1.0),
        }
        pq.write_table(pa.table(table), out / "rows.parquet")
        SPEC.write(out)
        return Built()

    built = {"settings": {}, "rooms": ("core",)}
    dataset = store.build("dataset", window, inputs={"n": str(number)}, builder=build_table, **built)
    train = store.build("train", window, inputs={"dataset": dataset.digest}, builder=lambda out: Built(), **built)
    old = BundlePointer.read(store.root)
    bundle = str((train.path / "bundle_knowledge").relative_to(store.root))
    pointer(old and old.release, bundle=bundle, digest=train.digest).publish(store.root)


def drift(settings, number):
    manifest = measure_drift(settings, WINDOWS[number - 1])
    return manifest, Drift.read(manifest.path)


def test_the_first_champion_has_nothing_to_be_compared_with(settings):
    publish(settings, 1, 10.0)
    manifest, body = drift(settings, 1)
    assert manifest.versions["drift"] == "no champion" and list(drift_finding(body)) == []


def test_a_planted_shift_of_the_new_rows_is_found_and_plotted(settings):
    publish(settings, 1, 10.0)
    publish(settings, 2, 14.0)
    manifest, body = drift(settings, 2)
    assert manifest.versions["drift"] == "drift" and {name for name, _ in body.drifted} == {"price"}
    (found,) = drift_finding(body)
    assert found.text.startswith("price in ") and "2 more pairs" in found.text
    assert plots.drift(body).startswith("<svg") and plots.drift(body) == plots.drift(body)
    assert drift(settings, 2)[0].reused


def test_without_a_shift_it_is_stable(settings):
    publish(settings, 1, 10.0)
    publish(settings, 2, 10.0)
    assert drift(settings, 2)[0].versions["drift"] == "stable"
