"""Tables for people: means, deviations, and paired tests against the plain backbone, corrected for their number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import scipy.stats

from benchmarks.evidence.systems import SYSTEMS

Row = Mapping[str, Any]
Key = tuple[str, str]
BASELINE = "plain"


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


def paired(group: Sequence[Row], other: Sequence[Row]) -> tuple[float | None, float | None, int]:
    """Mean difference of the test AUC over the seeds that both have, two-sided p of a paired t-test, number of seeds.

    The p-value is None with fewer than two seeds in common.
    """
    first, second = ({row["seed"]: row["test_auc"] for row in rows} for rows in (group, other))
    common = sorted(first.keys() & second.keys())
    differences = [first[seed] - second[seed] for seed in common]
    if len(differences) < 2:
        return (differences[0] if differences else None), None, len(differences)
    if stdev(differences) == 0:
        return mean(differences), 1.0 if mean(differences) == 0 else 0.0, len(differences)
    return mean(differences), float(scipy.stats.ttest_1samp(differences, 0.0).pvalue), len(differences)


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
        f"# {protocol}: what was measured\n",
        "Written by `llm4msr bench models`; README.md says how to read it.\n",
    ]
    if any(row["system"] == "full" for row in rows):
        parts.append(f"![What each system adds over the plain backbone, where and for whom]({protocol}-lift.svg)\n")
        parts.append(f"![Predicted against observed, per scenario]({protocol}-calibration.svg)\n")
    for lag in lags:
        if len(lags) > 1:
            parts.append(f"## Lag {lag // 3600} h\n")
        parts += [_overall(grouped(rows, lag)), _versus(grouped(rows, lag)), _scenarios(grouped(rows, lag))]
    (out / f"{protocol}.md").write_text("\n".join(parts), encoding="utf-8")
    if rows:
        from benchmarks.evidence.plots import write_plots

        write_plots(out, protocol, grouped(rows))


def _overall(groups: Mapping[Key, Sequence[Row]]) -> str:
    tests = {
        key: paired(rows, groups.get((key[0], BASELINE), [])) if key[1] != BASELINE else (None, None, 0)
        for key, rows in groups.items()
    }
    corrected = holm({key: test[1] for key, test in tests.items()})
    lines = [
        "| backbone | system | seeds | test AUC | sd | against plain | p (Holm) | log loss | cold AUC | new AUC "
        "| validation AUC | parameters, tables + rest | s per run (CPU s) |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key, rows in groups.items():
        areas = [row["test_auc"] for row in rows]
        cells = [
            *key,
            str(len(rows)),
            f"{mean(areas):.4f}",
            f"{stdev(areas):.4f}" if len(areas) > 1 else "",
            _signed(tests[key][0]),
            _probability(corrected[key]),
            f"{mean(row['test_logloss'] for row in rows):.4f}",
            _part(rows, "cold"),
            _part(rows, "new"),
            f"{mean(row['val_auc'] for row in rows):.4f}",
            "{tables:,} + {dense:,}".format(**rows[0]["parameters"]),
            f"{mean(row['seconds'] for row in rows):.0f} ({mean(row['cpu_seconds'] for row in rows):.0f})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _versus(groups: Mapping[Key, Sequence[Row]]) -> str:
    """Each system with true vectors against its own controls."""
    pairs = {
        (backbone, system, control): paired(rows, groups[backbone, control])
        for (backbone, system), rows in groups.items()
        for control in (f"{system}_shuffled", f"{system}_random", f"{system}_concat", f"{system}_none")
        if (backbone, control) in groups
    }
    if not pairs:
        return ""
    corrected = holm({key: test[1] for key, test in pairs.items()})
    lines = [
        "Against their own controls (paired by seed):\n",
        "| backbone | system | control | difference | p (Holm) |",
    ]
    lines.append("|---|---|---|---|---|")
    lines += [
        f"| {' | '.join([*key, _signed(test[0]), _probability(corrected[key])])} |" for key, test in pairs.items()
    ]
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


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"


def _probability(value: float | None) -> str:
    if value is None:
        return ""
    return "< .001" if value < 0.001 else f"{value:.3f}"
