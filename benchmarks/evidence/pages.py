"""What the pages quote of the rows: the findings of the evidence's front page, and each backbone's row on its own page.

A page marks the place by `<!-- evidence -->` and `<!-- end -->`; nothing else on it is touched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from benchmarks.evidence.runner import finished
from benchmarks.evidence.table import FEWEST_SEEDS, OPENING, Key, Row, grouped

PLACE = re.compile(r"(?<=<!-- evidence -->\n).*?(?=<!-- end -->)", re.DOTALL)
PROTOCOLS = {"scenario-wise-rec": "random", "time": "by time"}
SETTINGS = {"": "today's", "earlier": "earlier"}
HEAD = "plain | both levels | both, other users' vectors"


def write_pages(out: Path, backbones: Path) -> None:
    """Fill the marked places of OUT/README.md and of BACKBONES/*.md; a page that is not there is left out.

    Args:
        out: folder with a file of rows per protocol, and with the earlier ones below `earlier`.
        backbones: folder with a page per backbone.
    """
    every = {
        (age, protocol): grouped(list(finished(out / age / f"{protocol}.jsonl").values()))
        for age in SETTINGS
        for protocol in PROTOCOLS
    }
    _fill(out / "README.md", findings({protocol: every["", protocol] for protocol in PROTOCOLS}))
    for page in sorted(backbones.glob("*.md")):
        _fill(page, backbone_rows(page.stem, every))


def findings(groups: Mapping[str, Mapping[Key, Sequence[Row]]]) -> str:
    """A table with a line per split, and three sentences: against plain, against other users' vectors, how sure.

    Args:
        groups: by protocol, the rows by (backbone, system).
    """
    lines = [f"| split | backbones | seeds of each | {HEAD} |", "|---" * 6 + "|"]
    better, seeds = {system: [0, 0] for system in OPENING}, set()
    for protocol, name in PROTOCOLS.items():
        found = {
            backbone: areas
            for backbone in sorted({key[0] for key in groups[protocol]})
            if len(areas := _means(groups[protocol], backbone)[1]) == len(OPENING)
        }
        if not found:
            continue
        counts = {_means(groups[protocol], backbone)[0] for backbone in found}
        seeds |= counts
        for system in OPENING:
            better[system][0] += sum(areas["both"] > areas[system] for areas in found.values())
            better[system][1] += len(found)
        cells = [f"{mean(areas[system] for areas in found.values()):.4f}" for system in OPENING]
        lines.append(f"| {name} | {len(found)} | {_span(counts)} | {' | '.join(cells)} |")
    if not seeds:
        return "No backbone has all three systems yet.\n"
    few = min(seeds) < FEWEST_SEEDS
    return "\n".join(
        [
            *lines,
            "",
            f"1. Both levels of knowledge beat the plain backbone in {better['plain'][0]} of {better['plain'][1]} comparisons.",
            f"2. They beat the same model with other users' vectors in {better['both_shuffled'][0]} of {better['both_shuffled'][1]}; "
            "only this comparison shows that it is the vectors' meaning that helps, not the added layers.",
            "3. With fewer than three seeds of each, none of this is told apart from chance."
            if few
            else "3. Which of these differences are more than chance, the p-values on the pages of the two splits say.",
            "",
        ]
    )


def backbone_rows(backbone: str, every: Mapping[tuple[str, str], Mapping[Key, Sequence[Row]]]) -> str:
    """A table of a backbone's mean test AUC, a line per settings and split; a sentence where it has no rows."""
    lines = []
    for (age, protocol), groups in every.items():
        seeds, areas = _means(groups, backbone)
        if areas:
            cells = [f"{areas[system]:.4f}" if system in areas else "" for system in OPENING]
            lines.append(f"| {SETTINGS[age]} | {PROTOCOLS[protocol]} | {seeds} | {' | '.join(cells)} |")
    if not lines:
        return "No run of this backbone is in the files yet.\n"
    head = [f"| settings | split | seeds | {HEAD} |", "|---" * 6 + "|"]
    none = "" if any(line.startswith("| today's") for line in lines) else "With today's settings it has no run yet. "
    tail = f"Test AUC on MovieLens-1M. {none}[How to read it](../evidence/method.md)."
    return "\n".join([*head, *lines, "", tail, ""])


def _means(groups: Mapping[Key, Sequence[Row]], backbone: str) -> tuple[int, dict[str, float]]:
    """How many seeds, and the mean test AUC of each system over the seeds that all of them have."""
    rows = {
        system: {row["seed"]: row["test_auc"] for row in groups[backbone, system]}
        for system in OPENING
        if (backbone, system) in groups
    }
    common = sorted(set.intersection(*map(set, rows.values()))) if rows else []
    return len(common), {system: mean(found[s] for s in common) for system, found in rows.items() if common}


def _span(counts: set[int]) -> str:
    return str(min(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def _fill(page: Path, text: str) -> None:
    if page.is_file():
        page.write_text(PLACE.sub(lambda _: f"\n{text}\n", page.read_text(encoding="utf-8"), count=1), encoding="utf-8")
