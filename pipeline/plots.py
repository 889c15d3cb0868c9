"""The report's plots, as inline SVG texts that are equal for equal data."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

matplotlib.use("svg")

import matplotlib.pyplot as plt  # noqa: E402

PLAIN, KNOWING, MUTED = "#8a8f98", "#2457a6", "#c9ced6"
_STYLE = {
    "svg.hashsalt": "llm4msr",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "figure.autolayout": True,
}


def lift(comparison: dict[str, Any]) -> str:
    """AUC difference per scenario with confidence bars; grey where no difference can be told."""
    groups = {"all rows": comparison["overall"], "cold users": comparison["cold"], **comparison["scenarios"]}
    shown = [(name, g["auc"]) for name, g in groups.items() if g["auc"]["low"] is not None][::-1]
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(7, 0.6 + 0.38 * max(len(shown), 1)))
        for place, (_, auc) in enumerate(shown):
            colour = KNOWING if auc["told"] else PLAIN
            axes.plot([auc["low"], auc["high"]], [place, place], color=colour, lw=2, solid_capstyle="round")
            axes.plot(auc["difference"], place, "o", color=colour, ms=6)
        axes.axvline(0, color=MUTED, lw=1, zorder=0)
        axes.set_yticks(range(len(shown)), [name for name, _ in shown])
        axes.set_xlabel("AUC with knowledge minus AUC of the plain backbone (bars: 95 % interval over users)")
        axes.tick_params(length=0)
        return _svg(figure)


def curves(systems: dict[str, Any]) -> str:
    """Validation AUC and training loss per epoch of both systems."""
    with plt.rc_context(_STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.8))
        for name, rows in systems.items():
            epochs = [row["epoch"] for row in rows]
            colour = KNOWING if name == "knowledge" else PLAIN
            left.plot(epochs, [row["loss"] for row in rows], color=colour, label=name)
            right.plot(epochs, [row["auc"] for row in rows], color=colour, label=name)
        left.set(xlabel="epoch", ylabel="training loss")
        right.set(xlabel="epoch", ylabel="validation AUC")
        right.legend(frameon=False)
        return _svg(figure)


def calibration(metrics: dict[str, Any]) -> str:
    """Observed share of positives against the predicted one, per bin, all rows and each scenario."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(4.2, 3.6))
        axes.plot([0, 1], [0, 1], color=MUTED, lw=1)
        for values in metrics["scenarios"].values():
            axes.plot(*_bins(values), color=PLAIN, lw=0.8, alpha=0.7)
        axes.plot(*_bins(metrics["overall"]), color=KNOWING, marker="o", ms=4)
        axes.set(xlabel="predicted", ylabel="observed", xlim=(0, 1), ylim=(0, 1))
        return _svg(figure)


def volume(rows: pa.Table) -> str:
    """Interactions over time, in forty equal stretches."""
    times = pc.cast(rows["event_timestamp"], pa.int64()).to_numpy().astype("datetime64[us]")
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(7, 1.8))
        if len(times):
            counts, edges = np.histogram(times.astype(np.int64), bins=40)
            axes.stairs(
                counts,
                edges.astype(np.int64).astype("datetime64[us]").astype("datetime64[s]").astype(float),
                fill=True,
                color=MUTED,
            )
            ticks = np.linspace(edges[0], edges[-1], 5).astype(np.int64).astype("datetime64[us]")
            axes.set_xticks(ticks.astype("datetime64[s]").astype(float), [str(t)[:7] for t in ticks])
        axes.set_ylabel("rows")
        return _svg(figure)


def drift(found: dict[str, Any]) -> str:
    """Stability index and KL divergence per feature: a dot per scenario, a ring for all rows, a line at the limit."""
    names = list(found["features"])[::-1]
    titles = {"psi": "population stability index", "kl": "KL divergence (nats)"}
    with plt.rc_context(_STYLE):
        figure, both = plt.subplots(1, 2, sharey=True, figsize=(7, 0.9 + 0.3 * max(len(names), 1)))
        for axes, (measure, title) in zip(both, titles.items(), strict=True):
            limit = found["limits"][measure]
            for place, name in enumerate(names):
                for group, body in found["features"][name].items():
                    if body[measure] is not None:
                        colour = KNOWING if body[measure] > limit else PLAIN
                        face = "none" if group == "all" else colour
                        axes.plot(body[measure], place, "o", color=colour, mfc=face, ms=8 if group == "all" else 4)
            axes.axvline(limit, color=MUTED, lw=1, zorder=0)
            axes.set_xlim(left=0)
            axes.set_xlabel(title)
            axes.tick_params(length=0)
        both[0].set_yticks(range(len(names)), names)
        return _svg(figure)


def _bins(values: dict[str, Any]) -> tuple[list[float], list[float]]:
    bins = [b for b in (values.get("calibration") or {}).get("bins", []) if b["rows"]]
    return [b["predicted"] for b in bins], [b["actual"] for b in bins]


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
