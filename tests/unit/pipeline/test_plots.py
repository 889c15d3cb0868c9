"""Plots: dates with days, nothing on an axis, a legend for every line."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from results import filled

from core.contracts.drift import Drift
from core.contracts.results import Epoch, Lift, SystemMetrics
from core.tables import TIMESTAMP
from pipeline import plots

BINS = {
    "calibration": {
        "bins": [{"rows": 5, "predicted": 0.2, "actual": 0.3}, {"rows": 5, "predicted": 0.7, "actual": 0.6}]
    }
}


def texts(svg: str) -> list[str]:
    return [text.strip() for text in re.findall(r"<text[^>]*>([^<]+)</text>", svg)]


@pytest.mark.parametrize(("days", "shown"), [(4000, "2026-10-01"), (20, "2026-10-01"), (2, "2026-10-01 00:00")])
def test_times_are_shown_with_their_day_and_short_spans_with_the_minute(days, shown):
    start = np.datetime64("2026-10-01", "us").astype(np.int64)
    times = start + np.linspace(0, days * 86_400e6, 500).astype(np.int64)
    found = " ".join(texts(plots.volume(pa.table({"event_timestamp": pa.array(times).cast(TIMESTAMP)}))))
    assert shown in found


def test_no_rows_make_an_empty_plot():
    assert plots.volume(pa.table({"event_timestamp": pa.array([], TIMESTAMP)})).startswith("<svg")


def test_both_systems_stand_in_the_legend_of_the_curves():
    points = [Epoch(epoch=1, loss=0.6, auc=0.7, logloss=0.6)]
    assert {"plain", "knowledge"} <= set(texts(plots.curves({"plain": points, "knowledge": points})))


@pytest.mark.parametrize("count", [3, 30])
def test_calibration_names_its_lines(count):
    names = [f"s{k}" for k in range(count)]
    found = set(
        texts(plots.calibration(filled(SystemMetrics, {"overall": BINS, "scenarios": dict.fromkeys(names, BINS)})))
    )
    assert {"all rows", "as predicted"} <= found
    assert set(names) <= found if count == 3 else "each of 30 scenarios" in found


def test_the_lift_says_what_its_colours_mean_and_leaves_room_below_the_lowest_row():
    auc = {"difference": 0.1, "low": 0.0, "high": 0.2, "says": "better", "told": True}
    group = {"auc": auc}
    body = {"overall": group, "cold": group, "scenarios": {"$pecial & <odd>": group}, "confidence": 0.95}
    comparison = filled(Lift, body)
    svg = plots.lift(comparison)
    assert {"better", "worse", "cannot be told"} <= set(texts(svg))
    assert "$pecial &amp; &lt;odd&gt;" in svg
    assert plots.lift(comparison) == svg


def test_drift_says_what_a_ring_a_dot_and_the_line_are():
    psi = {"all": {"psi": 0.4, "kl": 0.1}, "feed": {"psi": 0.1, "kl": None}}
    found = filled(Drift, {"features": {"price": psi}, "limits": {"psi": 0.25, "kl": 0.2}})
    assert {"all rows", "one scenario", "over the limit", "limit"} <= set(texts(plots.drift(found)))
