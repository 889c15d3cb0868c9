"""Plots of a protocol: what knowledge is worth, where and for whom; and calibration per scenario. SVG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("svg")

import matplotlib.pyplot as plt

Groups = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "llm4msr",
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
SHOWN = ("both", "concat", "full_none", "full_shuffled", "full", "full_graded")
COLOURS = {
    "both_shuffled": "#c9ced6",
    "both": "#7aa6d8",
    "concat": "#4f8f6b",
    "full_none": "#c9ced6",
    "full_shuffled": "#8a8f98",
    "full": "#2457a6",
    "full_graded": "#b4632a",
}


def write_plots(out: Path, protocol: str, groups: Groups) -> None:
    """OUT/PROTOCOL-lift.svg and OUT/PROTOCOL-calibration.svg, where there are rows for them."""
    with plt.rc_context(STYLE):
        if drawn(groups):
            _lift(out / f"{protocol}-lift.svg", groups)
            _calibration(out / f"{protocol}-calibration.svg", groups)


def drawn(groups: Groups) -> bool:
    """Whether there is something to draw: a full system beside its plain backbone."""
    return any(system in ("full", "full_graded") and (backbone, "plain") in groups for backbone, system in groups)


def _lift(path: Path, groups: Groups) -> None:
    """Differences to the plain backbone with deviations over seeds: where and for whom on each backbone that has the
    full system, then overall on every backbone.
    """
    every = sorted({backbone for backbone, system in groups if system == "plain"})
    closely = [b for b in every if {(b, "full"), (b, "full_graded")} & groups.keys()]
    panels = len(closely) + (len(every) > 1)
    figure, grid = plt.subplots(panels, 1, figsize=(9, 2.8 * panels), squeeze=False)
    axes = grid[:, 0]
    for axis, backbone in zip(axes, closely, strict=False):
        plain = _places(groups[backbone, "plain"])
        systems = [name for name in SHOWN if (backbone, name) in groups]
        places = list(next(iter(plain.values())))
        lifts = {name: _differences(_places(groups[backbone, name]), plain, places) for name in systems}
        _bars(axis, places, lifts, f"{backbone}: what each system adds, where and for whom")
    overall = {
        name: [
            found
            for backbone in every
            for found in _differences(
                _places(groups.get((backbone, name), [])), _places(groups[backbone, "plain"]), ["all"]
            )
        ]
        for name in ("both_shuffled", "both", "full")
    }
    if len(every) > 1:
        _bars(axes[-1], every, overall, "every backbone: both levels, and the same with another user's vectors")
    _save(figure, path)


def _bars(axis: Any, places: Sequence[str], lifts: Mapping[str, Sequence[Sequence[float]]], title: str) -> None:
    """Bars of the mean of each list of differences, with its deviation; an empty list leaves a gap."""
    shown = {name: columns for name, columns in lifts.items() if any(columns)}
    width = 0.8 / max(len(shown), 1)
    for number, (name, columns) in enumerate(shown.items()):
        x = np.arange(len(places)) + (number - (len(shown) - 1) / 2) * width
        height = [mean(column) if column else 0.0 for column in columns]
        error = [stdev(column) if len(column) > 1 else 0.0 for column in columns]
        axis.bar(x, height, width * 0.95, yerr=error, label=name, color=COLOURS[name], ecolor="#555")
    axis.axhline(0, color="#555", linewidth=0.8)
    axis.set_xticks(range(len(places)), places, rotation=30 if len(places) > 9 else 0, fontsize=8)
    axis.set_ylabel("test AUC over plain")
    axis.set_title(title, loc="left", fontsize=10)
    axis.legend(frameon=False, fontsize=8, ncols=max(len(shown), 1))


def _places(rows: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """Seed -> where -> AUC."""
    return {row["seed"]: _where(row) for row in rows}


def _differences(
    one: Mapping[int, Mapping[str, float]], other: Mapping[int, Mapping[str, float]], places: Sequence[str]
) -> list[list[float]]:
    """Per place the differences over the seeds that both have."""
    seeds = [seed for seed in one if seed in other]
    return [[one[seed][place] - other[seed][place] for seed in seeds] for place in places]


def _calibration(path: Path, groups: Groups) -> None:
    backbone, full = next((b, s) for b, s in groups if s in ("full", "full_graded"))
    names = list(groups[backbone, full][0]["scenarios"])
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(2.6 * columns, 2.6 * lines), squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, names, strict=False):
        axis.plot([0, 1], [0, 1], color="#c9ced6", linewidth=1)
        for system, colour in (("plain", "#8a8f98"), ("full", "#2457a6"), ("full_graded", "#b4632a")):
            if (backbone, system) in groups:
                bins = np.array(groups[backbone, system][0]["scenarios"][name]["calibration"])
                axis.plot(bins[:, 1], bins[:, 2], marker="o", markersize=3, color=colour, label=system)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("predicted", fontsize=8)
        axis.set_ylabel("observed", fontsize=8)
    axes[0, 0].legend(frameon=False, fontsize=8)
    _save(figure, path)


def _where(row: Mapping[str, Any]) -> dict[str, float]:
    found = {"all": row["test_auc"], **{name: body["auc"] for name, body in row["scenarios"].items()}}
    for name in ("cold", "new"):
        if row.get(name) and row[name]["auc"] is not None and row[name]["rows"] >= 200:
            found[f"{name} users"] = row[name]["auc"]
    return found


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)
