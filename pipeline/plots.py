"""The report's plots, as inline SVG texts that are equal for equal data."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

matplotlib.use("svg")

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from core.contracts.drift import Drift
from core.contracts.results import Comparison, Epoch, Measures, System, SystemMetrics
from pipeline.ladder import Rung

PLAIN, KNOWING, MUTED, WORSE = "#6b7280", "#2457a6", "#c9ced6", "#b42318"
# Told apart also by readers who do not see red and green alike (Okabe and Ito).
_SCENARIO_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a00")
_WIDTH = 5.2  # inches; the page shows a plot between two thirds of this and this
_BINS = 40
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "llm4msr",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 9,
    "figure.autolayout": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def lift(comparison: Comparison) -> str:
    """AUC difference per scenario with confidence bars."""
    groups = {"all rows": comparison.overall, "cold users": comparison.cold, **comparison.scenarios}
    shown = [(name, g.auc) for name, g in groups.items() if g.auc.low is not None][::-1]
    colours = {"better": KNOWING, "worse": WORSE}
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(_WIDTH, 1.2 + 0.28 * max(len(shown), 1)))
        for place, (_, auc) in enumerate(shown):
            if auc.difference is not None and auc.low is not None and auc.high is not None:
                colour = colours.get(auc.says, PLAIN)
                axes.plot([auc.low, auc.high], [place, place], color=colour, lw=2, solid_capstyle="round")
                axes.plot(auc.difference, place, "o", color=colour, ms=5)
        axes.axvline(0, color=MUTED, lw=1, zorder=0)
        axes.set_yticks(range(len(shown)), [_short(name) for name, _ in shown])
        axes.set_ylim(-0.8, max(len(shown), 1) - 0.2)
        axes.set_xlabel(f"AUC, knowledge minus plain ({comparison.confidence:.0%} interval)")
        axes.tick_params(length=0)
        said = {"better": KNOWING, "worse": WORSE, "cannot be told": PLAIN}
        _legend_below(figure, {name: {"color": colour, "marker": "o", "ms": 4} for name, colour in said.items()})
        return _svg(figure)


def ladder(rungs: list[Rung]) -> str:
    """AUC and log loss of every system, less those of the model with knowledge, with bars over users: the best stands at 0."""
    shown = [(rung, rung.change.overall) for rung in rungs if rung.change is not None]
    shown = [(rung, overall) for rung, overall in shown if overall.auc.difference is not None][::-1]
    looks = {"better": PLAIN, "worse": WORSE}
    with plt.rc_context(_STYLE):
        size = (_WIDTH, 1.3 + 0.3 * (len(shown) + 1))
        figure, both = plt.subplots(1, 2, sharey=True, figsize=size, width_ratios=(1, 1))
        for number, (axes, title) in enumerate(zip(both, ("AUC", "log loss"), strict=True)):
            axes.axvline(0, color=MUTED, lw=1, zorder=0)
            axes.plot(0, 0, "o", color=KNOWING, ms=5)
            for place, (_, overall) in enumerate(shown, start=1):
                change = (overall.auc, overall.logloss)[number]
                # How knowledge compares: better than this system is grey, worse is red, untold is open.
                colour = looks.get(change.says, PLAIN)
                if change.low is not None and change.high is not None:
                    axes.plot([-change.low, -change.high], [place, place], color=colour, lw=2, solid_capstyle="round")
                face = colour if change.told else "white"
                if change.difference is not None:
                    axes.plot(-change.difference, place, "o", color=colour, mfc=face, ms=5)
            axes.set_xlabel(f"{title} minus knowledge's")
            axes.tick_params(length=0)
            axes.margins(x=0.12)
            axes.xaxis.set_major_locator(MaxNLocator(3))
        labels = ["with knowledge", *(_short(rung.label, 40) for rung, _ in shown)]
        both[0].set_yticks(range(len(labels)), labels)
        both[0].set_ylim(-0.7, len(labels) - 0.3)
        dot = {"marker": "o", "ls": "", "ms": 4}
        said = {
            "told apart from knowledge": {**dot, "color": PLAIN},
            "not told apart": {**dot, "color": PLAIN, "mfc": "white"},
            "knowledge is worse": {**dot, "color": WORSE},
        }
        _legend_below(figure, said)
        return _svg(figure)


def curves(systems: Mapping[System, Sequence[Epoch]]) -> str:
    """Training loss and validation AUC per epoch of both systems."""
    colours = {name: KNOWING if name == "knowledge" else PLAIN for name in systems}
    with plt.rc_context(_STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(_WIDTH, 2.6))
        for name, rows in systems.items():
            epochs = [row.epoch for row in rows]
            marker = "o" if len(rows) == 1 else None
            left.plot(epochs, [row.loss for row in rows], color=colours[name], marker=marker)
            right.plot(epochs, [row.auc for row in rows], color=colours[name], marker=marker)
        for axes, title in ((left, "training loss"), (right, "validation AUC")):
            axes.set(xlabel="epoch", title=title)
            axes.xaxis.get_major_locator().set_params(integer=True)
        _legend_below(figure, {name: {"color": colour} for name, colour in colours.items()})
        return _svg(figure)


def calibration(metrics: SystemMetrics) -> str:
    """Observed share of positives against the predicted one, per bin: all rows, and each scenario."""
    scenarios = metrics.scenarios
    named = len(scenarios) <= len(_SCENARIO_COLOURS)
    legend: dict[str, dict[str, Any]] = {"all rows": {"color": "black", "marker": "o", "ms": 3, "lw": 1.6}}
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(4.2, 3.9))
        axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls="--")
        for place, (name, values) in enumerate(scenarios.items()):
            look: dict[str, Any] = {"color": _SCENARIO_COLOURS[place] if named else MUTED, "lw": 0.9}
            axes.plot(*_calibration_bins(values), **look)
            legend[_short(name) if named else f"each of {len(scenarios)} scenarios"] = look
        axes.plot(*_calibration_bins(metrics.overall), **legend["all rows"])
        legend["as predicted"] = {"color": MUTED, "lw": 1, "ls": "--"}
        axes.set(xlabel="predicted", ylabel="observed", xlim=(0, 1), ylim=(0, 1))
        _legend_below(figure, legend, columns=3)
        return _svg(figure)


def volume(rows: pa.Table) -> str:
    """Interactions over time, in forty equal stretches."""
    times = pc.cast(rows["event_timestamp"], pa.int64()).to_numpy()
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(_WIDTH, 1.8))
        if len(times):
            counts, edges = np.histogram(times, bins=_BINS)
            axes.stairs(counts, edges, fill=True, color=MUTED)
            ticks = np.linspace(edges[0], edges[-1], 4)
            days = ticks.astype(np.int64).astype("datetime64[us]")
            # Below eight days the day alone would stand there twice.
            wide = 10 if edges[-1] - edges[0] >= 8 * 86_400_000_000 else 16
            axes.set_xticks(ticks, [str(day)[:wide].replace("T", "\n") for day in days])
            axes.get_xticklabels()[0].set_horizontalalignment("left")
            axes.get_xticklabels()[-1].set_horizontalalignment("right")
        axes.set_ylabel("rows")
        return _svg(figure)


def drift(found: Drift) -> str:
    """Stability index and KL divergence per feature: a dot per scenario, a ring for all rows, a line at the limit."""
    names = list(found.features)[::-1]
    titles = {"psi": "stability index (PSI)", "kl": "KL divergence (nats)"}
    with plt.rc_context(_STYLE):
        figure, both = plt.subplots(1, 2, sharey=True, figsize=(_WIDTH, 1.5 + 0.28 * max(len(names), 1)))
        for axes, (measure, title) in zip(both, titles.items(), strict=True):
            limit = getattr(found.limits, measure)
            for place, name in enumerate(names):
                for group, body in found.features[name].items():
                    if (size := getattr(body, measure)) is not None:
                        colour = WORSE if size > limit else PLAIN
                        face = "none" if group == "all" else colour
                        axes.plot(size, place, "o", color=colour, mfc=face, ms=8 if group == "all" else 4)
            axes.axvline(limit, color=MUTED, lw=1, zorder=0)
            axes.set_xlim(left=0)
            axes.set_xlabel(title)
            axes.tick_params(length=0)
        both[0].set_yticks(range(len(names)), [_short(name) for name in names])
        both[0].set_ylim(-0.8, max(len(names), 1) - 0.2)
        dot = {"marker": "o", "ls": ""}
        looks: dict[str, dict[str, Any]] = {
            "all rows": {**dot, "color": PLAIN, "mfc": "none", "ms": 7},
            "one scenario": {**dot, "color": PLAIN, "ms": 4},
            "over the limit": {**dot, "color": WORSE, "ms": 4},
            "limit": {"color": MUTED},
        }
        _legend_below(figure, looks)
        return _svg(figure)


def _calibration_bins(values: Measures) -> tuple[list[float], list[float]]:
    bins = [one for one in values.calibration.bins if one.rows]
    return [one.predicted for one in bins], [one.actual for one in bins]


def _legend_below(figure: Any, looks: dict[str, dict[str, Any]], columns: int = 4) -> None:
    """A legend under the plot, outside of its axes."""
    handles = [Line2D([], [], label=name, **look) for name, look in looks.items()]
    columns = min(columns, len(handles))
    height = 0.2 * -(-len(handles) // columns) / figure.get_figheight()
    figure.set_layout_engine("tight", rect=(0, height, 1, 1))
    figure.legend(handles=handles, loc="lower center", ncols=columns, borderaxespad=0.1, handlelength=1.4)


def _short(name: str, width: int = 24) -> str:
    """A label that fits; `$` is text here, not mathematics."""
    text = " ".join(str(name).split()).replace("$", r"\$")
    return text if len(text) <= width else text[: width - 1] + "…"


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
