"""Tables for people: means, deviations, and paired tests against the plain backbone, corrected for their number."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import scipy.stats

from benchmarks.evidence.plots import drawn, write_plots
from benchmarks.evidence.systems import SYSTEMS

Row = Mapping[str, Any]
Key = tuple[str, str]
Pair = tuple[str, str, str]  # backbone, system, what it is compared with
BASELINE = "plain"
# The questions asked before anything was run, on the backbones of the method's own paper: a family of tests of its own.
# All other comparisons of a page are a second family.
PAPER = ("shared_bottom", "omoe", "mmoe", "ple", "aitm", "star")
QUESTIONS = {("both", BASELINE), ("both", "both_shuffled"), ("full", BASELINE), ("full", "full_shuffled")}
# The random splits of two seeds share most training rows, so their differences vary less than those of new data would: the
# share of test rows to training rows adds to the variance (Nadeau and Bengio, Machine Learning 52, 2003).
OVERLAP = {"scenario-wise-rec": 1 / 8}
TITLES = {"scenario-wise-rec": "Random split (scenario-wise-rec)", "time": "Split by time"}
FEWEST_SEEDS = 3  # A paired test of fewer has no power to speak of; it would only weaken the others by its number.
# An AUC of fewer rows than this says nothing, and is not shown.
FEWEST_ROWS = 50


def grouped(rows: Sequence[Row], lag: int = 0) -> dict[Key, list[Row]]:
    """(backbone, system) -> its rows in order of seed, in order of the backbones' names and of the systems' list."""
    found: dict[Key, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: r["seed"]):
        if row.get("lag", 0) == lag and row["system"] in SYSTEMS:
            found[row["backbone"], row["system"]].append(row)
    order = list(SYSTEMS)
    return {key: found[key] for key in sorted(found, key=lambda k: (k[0], order.index(k[1])))}


def means(rows: Sequence[Row]) -> dict[Key, float]:
    """Mean test AUC by (backbone, system), at lag 0."""
    return {key: mean(row["test_auc"] for row in group) for key, group in grouped(rows).items()}


def paired(group: Sequence[Row], other: Sequence[Row], overlap: float = 0.0) -> tuple[float | None, float | None, int]:
    """Mean difference of the test AUC over the seeds that both have, two-sided p of a paired t-test, number of seeds.

    Args:
        group: rows of a system.
        other: rows of what it is compared with.
        overlap: test rows to training rows where each seed splits the same rows anew; 0 where the seeds are independent.

    Returns:
        The p-value is None with fewer than two seeds in common.
    """
    first, second = ({row["seed"]: row["test_auc"] for row in rows} for rows in (group, other))
    common = sorted(first.keys() & second.keys())
    differences = [first[seed] - second[seed] for seed in common]
    if len(differences) < 2:
        return (differences[0] if differences else None), None, len(differences)
    if stdev(differences) == 0:
        return mean(differences), 1.0 if mean(differences) == 0 else 0.0, len(differences)
    count = len(differences)
    t = mean(differences) / (stdev(differences) * math.sqrt(1 / count + overlap))
    return mean(differences), float(2 * scipy.stats.t.sf(abs(t), count - 1)), count


def holm(values: Mapping[Any, float | None]) -> dict[Any, float | None]:
    """P-values corrected by Holm's step-down method; None stays None and does not count."""
    known = sorted((value, place) for place, value in enumerate(values.values()) if value is not None)
    keys, corrected, highest = list(values), dict.fromkeys(values), 0.0
    found: dict[Any, float | None] = dict(corrected)
    for rank, (value, place) in enumerate(known):
        highest = max(highest, min(1.0, value * (len(known) - rank)))
        found[keys[place]] = highest
    return found


def write_tables(out: Path, protocol: str, rows: Sequence[Row]) -> None:
    """OUT/PROTOCOL.md and its plots from all rows of a protocol."""
    out.mkdir(parents=True, exist_ok=True)
    lags = sorted({row.get("lag", 0) for row in rows})
    parts = [
        f"# {TITLES[protocol]}: what was measured\n",
        "Written by `llm4msr bench models`; [what was found](README.md), and how to read it.\n",
    ]
    parts += opening(grouped(rows))
    if drawn(grouped(rows)):
        parts.append(f"![What each system adds over the plain backbone, where and for whom]({protocol}-lift.svg)\n")
        parts.append(f"![Predicted against observed, per scenario]({protocol}-calibration.svg)\n")
    every = {lag: grouped(rows, lag) for lag in lags}
    tests = compared(every, OVERLAP.get(protocol, 0.0))
    for lag, groups in every.items():
        if len(lags) > 1:
            parts.append(f"## Lag {lag // 3600} h\n")
        parts += [_overall(groups, tests[lag]), _versus(tests[lag]), _scenarios(groups)]
    (out / f"{protocol}.md").write_text("\n".join(parts), encoding="utf-8")
    if rows:
        write_plots(out, protocol, grouped(rows))


# The measures of the page's first table: heading and where a row has it.
MEASURES: dict[str, Callable[[Row], float | None]] = {
    "AUC": lambda row: row["test_auc"],
    "GAUC": lambda row: row.get("test_gauc"),
    "log loss": lambda row: row["test_logloss"],
    "NDCG@10, own rows": lambda row: row.get("test_ndcg_at_10"),
    "Recall@10, own rows": lambda row: row.get("test_recall_at_10"),
    "NDCG@10, full ranking": lambda row: (row.get("full_ranking") or {}).get("ndcg_at_10"),
    "Recall@10, full ranking": lambda row: (row.get("full_ranking") or {}).get("recall_at_10"),
}
OPENING = (BASELINE, "both", "both_shuffled")


def opening(groups: Mapping[Key, Sequence[Row]]) -> list[str]:
    """What a reader can repeat: one table of the backbones that have all three systems, and a sentence a question."""
    backbones = [b for b in PAPER if all((b, system) in groups for system in OPENING)]
    if not backbones:
        return []
    lines = [f"| backbone | system | seeds | {' | '.join(MEASURES)} |", "|---" * (3 + len(MEASURES)) + "|"]
    means_of: dict[str, dict[str, dict[str, float]]] = {}
    for backbone in backbones:
        # The seeds that all three have: means are over the same splits.
        common = set.intersection(*({row["seed"] for row in groups[backbone, system]} for system in OPENING))
        for system in OPENING:
            rows = [row for row in groups[backbone, system] if row["seed"] in common]
            values = {
                name: mean(found)
                for name, of in MEASURES.items()
                if len(found := [v for v in map(of, rows) if v is not None]) == len(rows)
            }
            means_of.setdefault(system, {})[backbone] = values
            cells = [f"{values[name]:.4f}" if name in values else "" for name in MEASURES]
            lines.append(f"| {backbone} | {system} | {len(rows)} | {' | '.join(cells)} |")
    return ["\n".join(lines) + "\n", *_sentences(backbones, means_of)]


def _sentences(backbones: Sequence[str], means_of: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[str]:
    def change(other: str, measure: str) -> list[float]:
        found = [(means_of["both"][b].get(measure), means_of[other][b].get(measure)) for b in backbones]
        return [mine - theirs for mine, theirs in found if mine is not None and theirs is not None]

    count = len(backbones)
    for other, words in (
        (BASELINE, "the plain backbone"),
        ("both_shuffled", "the same model with other users' vectors"),
    ):
        gains = change(other, "AUC")
        better = sum(gain > 0 for gain in gains)
        yield (
            f"Against {words}, both levels of knowledge are better on {better} of {count} backbones: AUC {mean(gains):+.4f} in the mean "
            f"({min(gains):+.4f} to {max(gains):+.4f}).\n"
        )
    recall, gain = change(BASELINE, "Recall@10, full ranking"), change(BASELINE, "NDCG@10, full ranking")
    if recall and gain:
        before = mean(means_of[BASELINE][b]["Recall@10, full ranking"] for b in backbones)
        yield (
            "In full ranking, each test positive against all items of its scenario that its user never rated, the models find "
            f"{100 * before:.2f} % of them among the first ten without knowledge, {100 * (before + mean(recall)):.2f} % with it (NDCG@10 {mean(gain):+.4f}).\n"
        )


def compared(
    every: Mapping[int, Mapping[Key, Sequence[Row]]], overlap: float = 0.0
) -> dict[int, dict[Pair, tuple[float | None, float | None]]]:
    """Every comparison of a page, by lag: mean difference and p-value, corrected within its family of the whole page.

    Each system is compared with the plain backbone, one with true vectors with its own controls, and one with grades
    with itself without them.
    """
    found: dict[tuple[int, Pair], tuple[float | None, float | None, int]] = {}
    for lag, groups in every.items():
        for backbone, system in groups:
            controls = [f"{system}_{control}" for control in ("shuffled", "random", "concat", "none")]
            for other in dict.fromkeys([BASELINE, *controls, system.replace("_graded", "")]):
                if other != system and (backbone, other) in groups:
                    test = paired(groups[backbone, system], groups[backbone, other], overlap)
                    found[lag, (backbone, system, other)] = test
    values = {place: p if seeds >= FEWEST_SEEDS else None for place, (_, p, seeds) in found.items()}
    asked = {place for place in found if place[1][0] in PAPER and place[1][1:] in QUESTIONS}
    corrected = holm({p: values[p] for p in found if p in asked}) | holm(
        {p: values[p] for p in found if p not in asked}
    )
    return {lag: {pair: (found[at, pair][0], corrected[at, pair]) for at, pair in found if at == lag} for lag in every}


def _overall(groups: Mapping[Key, Sequence[Row]], tests: Mapping[Pair, tuple[float | None, float | None]]) -> str:
    lines = [
        "| backbone | system | seeds | test AUC | sd | against plain | p (Holm) | log loss | cold AUC | start AUC | new AUC "
        "| validation AUC | parameters, tables + rest | s per run (CPU s) |",
        "|---" * 14 + "|",
    ]
    for key, rows in groups.items():
        areas = [row["test_auc"] for row in rows]
        cells = [
            *key,
            str(len(rows)),
            f"{mean(areas):.4f}",
            f"{stdev(areas):.4f}" if len(areas) > 1 else "",
            *_difference(tests.get((*key, BASELINE), (None, None))),
            f"{mean(row['test_logloss'] for row in rows):.4f}",
            *(_part(rows, name) for name in ("cold", "start", "new")),
            f"{mean(row['val_auc'] for row in rows):.4f}",
            "{tables:,} + {dense:,}".format(**rows[0]["parameters"]),
            f"{mean(row['seconds'] for row in rows):.0f} ({mean(row['cpu_seconds'] for row in rows):.0f})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _versus(tests: Mapping[Pair, tuple[float | None, float | None]]) -> str:
    """Each system with true vectors against its own controls."""
    controls = {pair: test for pair, test in tests.items() if pair[2] != BASELINE}
    if not controls:
        return ""
    lines = [
        "Against their own controls (paired by seed):\n",
        "| backbone | system | control | difference | p (Holm) |",
    ]
    lines.append("|---" * 5 + "|")
    lines += [f"| {' | '.join([*pair, *_difference(test)])} |" for pair, test in controls.items()]
    return "\n".join(lines) + "\n"


def _scenarios(groups: Mapping[Key, Sequence[Row]]) -> str:
    names = list(next(iter(groups.values()))[0]["scenarios"]) if groups else []
    lines = ["Test AUC (log loss) per scenario:\n", f"| backbone | system | {' | '.join(names)} |"]
    lines.append("|---" * (len(names) + 2) + "|")
    for key, rows in groups.items():
        cells = [
            f"{mean(row['scenarios'][name]['auc'] for row in rows):.4f} "
            f"({mean(row['scenarios'][name]['logloss'] for row in rows):.4f})"
            for name in names
        ]
        lines.append(f"| {' | '.join([*key, *cells])} |")
    return "\n".join(lines) + "\n"


def _part(rows: Sequence[Row], name: str) -> str:
    parts = [row[name] for row in rows if row.get(name)]
    values = [part["auc"] for part in parts if part["auc"] is not None and part["rows"] >= FEWEST_ROWS]
    return f"{mean(values):.4f}" if values else ""


def _difference(test: tuple[float | None, float | None]) -> tuple[str, str]:
    return _signed(test[0]), _probability(test[1])


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"


def _probability(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
