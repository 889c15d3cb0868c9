"""Drift: how far the distribution of each feature and scenario has moved from what the champion was trained on.

Two measures over the same bins, both with half a row added to every bin, so that an empty bin is no infinity:

- population stability index: sum((q - p) * ln(q / p)); above .25 is usually called a shift;
- Kullback-Leibler divergence: sum(q * ln(q / p)) in nats, of the new data (q) from the champion's (p).

Numbers fall into the champion's deciles, texts into its most frequent values; what is missing has a bin of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.contracts.drift import ComparedRows, Divergence, Drift, DriftLimits
from core.limits import ValidationSettings

BINS = 10
VALUES = 50
ALL = "all"


def profile(rows: pa.Table, columns: Sequence[str]) -> dict[str, Any]:
    """Where the bins of a table's columns lie: what later tables are compared with.

    Args:
        rows: a training table with a column `scenario`.
        columns: names of numbers and texts.

    Returns:
        column -> {"edges": [...]} or {"values": [...]}; JSON-able.
    """
    return {name: _bins(rows[name]) for name in columns if name in rows.column_names}


def compare(reference: pa.Table, current: pa.Table, columns: Sequence[str], settings: ValidationSettings) -> Drift:
    """Drift of each column, over all rows and within each scenario, and of the scenarios themselves.

    Args:
        reference: the champion's training rows.
        current: the new training rows.
        columns: which features; those that the reference lacks are named as unknown.
        settings: `max_psi`, `max_kl` and `min_drift_rows` are the limits.

    Returns:
        What was found, of every column and group: `all` and the scenarios.
    """
    bins = profile(reference, ["scenario", *columns])
    masks = _groups(reference, current)
    features: dict[str, dict[str, Divergence]] = {}
    for name, where in bins.items():
        if name not in current.column_names:
            continue
        old, new = (_places(table[name], where) for table in (reference, current))
        size = _size(where)
        groups = {ALL: masks[ALL]} if name == "scenario" else masks
        features[name] = {
            group: _measure(old[mine], new[theirs], size, settings) for group, (mine, theirs) in groups.items()
        }
    drifted = [(name, group) for name, groups in features.items() for group, body in groups.items() if body.drift]
    enough = min(reference.num_rows, current.num_rows) >= settings.min_drift_rows
    return Drift(
        verdict="too few rows" if not enough else "drift" if drifted else "stable",
        limits=DriftLimits(psi=settings.max_psi, kl=settings.max_kl),
        rows=ComparedRows(reference=reference.num_rows, current=current.num_rows),
        features=features,
        drifted=tuple(drifted),
        unknown=tuple(sorted(set(columns) - set(features))),
    )


def divergences(old: np.ndarray, new: np.ndarray) -> tuple[float, float]:
    """Population stability index and KL divergence of `new` from `old`, both counts per bin [b]."""
    p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (old, new))
    ratio = np.log(q / p)
    return float(((q - p) * ratio).sum()), float((q * ratio).sum())


def _measure(old: np.ndarray, new: np.ndarray, size: int, settings: ValidationSettings) -> Divergence:
    if min(len(old), len(new)) < settings.min_drift_rows:
        return Divergence(psi=None, kl=None, rows=len(new), drift=False)
    psi, kl = divergences(np.bincount(old, minlength=size), np.bincount(new, minlength=size))
    drift = psi > settings.max_psi or kl > settings.max_kl
    return Divergence(psi=round(psi, 6), kl=round(kl, 6), rows=len(new), drift=drift)


def _groups(reference: pa.Table, current: pa.Table) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    old, new = (np.asarray(table["scenario"].to_pylist(), dtype=object) for table in (reference, current))
    everyone = {ALL: (np.ones(len(old), bool), np.ones(len(new), bool))}
    return everyone | {name: (old == name, new == name) for name in sorted(set(old) | set(new), key=str)}


def _bins(column: pa.ChunkedArray) -> dict[str, Any]:
    if _numeric(column):
        values = _numbers(column)
        values = values[np.isfinite(values)]
        cuts = np.linspace(0, 1, BINS + 1)[1:-1]
        return {"edges": np.unique(np.quantile(values, cuts)).tolist() if len(values) else []}
    counts = pc.value_counts(column.drop_null()).to_pylist()
    ordered = sorted(counts, key=lambda entry: (-entry["counts"], str(entry["values"])))
    return {"values": [str(entry["values"]) for entry in ordered[:VALUES]]}


def _size(where: Mapping[str, Any]) -> int:
    # One bin more than edges, or one for all other values; and one for what is missing.
    return len(where.get("edges", where.get("values", ()))) + 2


def _places(column: pa.ChunkedArray, where: Mapping[str, Any]) -> np.ndarray:
    """The bin of each row, int64 [n]; 0 is missing."""
    if "edges" in where:
        if not _numeric(column):
            return np.zeros(len(column), dtype=np.int64)
        values = _numbers(column)
        # side="left": a value that many rows share lies below its own edge, with the smaller ones.
        return np.where(np.isnan(values), 0, 1 + np.searchsorted(where["edges"], values, side="left"))
    texts = column.cast(pa.string())
    found = pc.index_in(texts, value_set=pa.array(where["values"], pa.string()))
    other = len(where["values"]) + 1
    places = pc.add(pc.fill_null(found.cast(pa.int64()), other - 1), 1)
    return pc.if_else(pc.is_null(texts), pa.scalar(0, pa.int64()), places).to_numpy(zero_copy_only=False)


def _numeric(column: pa.ChunkedArray) -> bool:
    kind = column.type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
