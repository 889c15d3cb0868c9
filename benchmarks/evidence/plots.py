"""Plots of a protocol: what knowledge is worth, where and for whom; and calibration per scenario. SVG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("svg")

import matplotlib.pyplot as plt  # noqa: E402

Groups = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
STYLE = {"svg.hashsalt": "llm4msr", "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False}
SHOWN = ("both", "concat", "full_none", "full_shuffled", "full")
COLOURS = dict(zip(SHOWN, ("#7aa6d8", "#4f8f6b", "#c9ced6", "#8a8f98", "#2457a6"), strict=True))


def write_plots(out: Path, protocol: str, groups: Groups) -> None:
    """OUT/PROTOCOL-lift.svg and OUT/PROTOCOL-calibration.svg, where there are rows for them."""
    with plt.rc_context(STYLE):
        if any(system in SHOWN for _, system in groups):
            _lift(out / f"{protocol}-lift.svg", groups)
        if any(system == "full" for _, system in groups):
            _calibration(out / f"{protocol}-calibration.svg", groups)


def _lift(path: Path, groups: Groups) -> None:
    """Difference to the plain backbone: overall, per scenario and for cold users, with deviations over seeds."""
    backbones = sorted({backbone for backbone, system in groups if system == "plain"})
    figure, axes = plt.subplots(len(backbones) or 1, 1, figsize=(9, 2.6 * max(1, len(backbones))), squeeze=False)
    for axis, backbone in zip(axes[:, 0], backbones, strict=False):
        plain = {row["seed"]: _where(row) for row in groups[backbone, "plain"]}
        places = list(next(iter(plain.values())))
        systems = [name for name in SHOWN if (backbone, name) in groups]
        for number, system in enumerate(systems):
            lifts = [
                [_where(row)[place] - plain[row["seed"]][place] for place in places]
                for row in groups[backbone, system]
                if row["seed"] in plain
            ]
            if not lifts:
                continue
            columns = list(zip(*lifts, strict=True))
            x = np.arange(len(places)) + (number - (len(systems) - 1) / 2) * 0.15
            error = [stdev(column) if len(column) > 1 else 0.0 for column in columns]
            axis.bar(
                x, [mean(c) for c in columns], 0.14, yerr=error, label=system, color=COLOURS[system], ecolor="#555"
            )
        axis.axhline(0, color="#555", linewidth=0.8)
        axis.set_xticks(range(len(places)), places)
        axis.set_ylabel("test AUC over plain")
        axis.set_title(f"{backbone}: what each system adds, where and for whom", loc="left", fontsize=10)
        axis.legend(frameon=False, fontsize=8, ncols=len(systems))
    _save(figure, path)


def _calibration(path: Path, groups: Groups) -> None:
    backbone = next(backbone for backbone, system in groups if system == "full")
    names = list(groups[backbone, "full"][0]["scenarios"])
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(2.6 * columns, 2.6 * lines), squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, names, strict=False):
        axis.plot([0, 1], [0, 1], color="#c9ced6", linewidth=1)
        for system, colour in (("plain", "#8a8f98"), ("full", "#2457a6")):
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
