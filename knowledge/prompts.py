"""Prompts: what the reasoner reads about a user or a scenario, from rows strictly before a watermark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from knowledge.reasoners.base import Reasoner
from knowledge.snapshots import Snapshots
from knowledge.sources import Catalogue, Log
from knowledge.statistics import ScenarioStatistics
from knowledge.template import Template

# How far back typical positives are looked for.
_LOOKED_AT = 200


def statistics_sentence(template: Template, statistics: ScenarioStatistics) -> str:
    """The statistics in words, or that there are none."""
    return template.fill("statistics", **statistics.fields()) if statistics.rows else template.fill("nothing")


def scenario_prompts(
    found: Sequence[ScenarioStatistics], catalogue: Catalogue, template: Template, reasoner: Reasoner, max_tokens: int
) -> list[str]:
    """One prompt per scenario: all scenarios with their statistics, then the question about this one.

    Rule for the length: descriptions are cut to the same number of characters, the largest with which every prompt fits into
    `max_tokens`. If they do not even without descriptions, statistics go too; then the reasoner cuts the end.
    """

    def written(most: int) -> list[str]:
        lines = [
            template.fill(
                "scenario",
                title=title,
                description=description[: max(0, most)].rstrip(),
                statistics=statistics_sentence(template, statistics) if most >= 0 else "",
            ).rstrip()
            for (_, title, description), statistics in zip(catalogue.scenarios, found, strict=True)
        ]
        block = "\n".join(lines)
        return [template.fill("prompt", scenarios=block, title=title) for _, title, _ in catalogue.scenarios]

    def fits(most: int) -> bool:
        return bool((reasoner.tokens(written(most)) <= max_tokens).all())

    high = max((len(description) for _, _, description in catalogue.scenarios), default=0)
    if fits(high):
        return written(high)
    low = -1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return written(low)


class Histories:
    """Positives with a text of every user and scenario in order of time, cut at a watermark by bisection."""

    def __init__(self, log: Log, catalogue: Catalogue) -> None:
        scenarios = len(catalogue.scenarios)
        positive = np.flatnonzero(told_positives(log, catalogue))
        group = log.users[positive].astype(np.int64) * scenarios + log.scenarios[positive]
        order = np.argsort(group, kind="stable")
        self._items, self._times = log.items[positive[order]], log.times[positive[order]]
        self._starts = np.searchsorted(group[order], np.arange(len(log.user_ids) * scenarios + 1))
        self._scenarios = scenarios

    def before(self, user: int, scenario: int, watermark: int) -> np.ndarray:
        """Items the user liked in the scenario before the watermark, oldest first, int32 [n]."""
        group = user * self._scenarios + scenario
        start, end = int(self._starts[group]), int(self._starts[group + 1])
        stop = start + int(np.searchsorted(self._times[start:end], watermark, side="left"))
        return self._items[start:stop]


def told_positives(log: Log, catalogue: Catalogue) -> np.ndarray:
    """The rows that a user prompt can tell of: positives whose item has a text, bool [rows]."""
    has_text = np.array([*map(bool, catalogue.texts), False], dtype=bool)
    return log.labels & has_text[log.items]


def typical(items: np.ndarray, categories: Sequence[Sequence[str]], newest: int, most: int) -> list[int]:
    """The items that are most like what the user likes here, and not among the newest.

    An item counts as typical by how common its categories are, on average, among the last 200 positives; of equals the newer
    comes first.

    Args:
        items: positives, oldest first.
        categories: of every item.
        newest: so many of the last distinct items are told anyway.
        most: how many to give.
    """
    last = list(dict.fromkeys(items[::-1][:_LOOKED_AT].tolist()))
    common = Counter(category for item in last for category in categories[item])
    candidates = [item for item in last[newest:] if categories[item]] if most else []
    told = [sum(common[c] for c in categories[item]) / len(categories[item]) for item in candidates]
    order = sorted(range(len(candidates)), key=lambda i: (-told[i], i))
    return [candidates[i] for i in order[:most]]


class UserPrompts:
    """Builds user prompts.

    Args:
        log: the interactions.
        catalogue: titles and scenarios.
        template: `user_v2`.
        reasoner: counts the tokens.
        most: titles per scenario at the most.
        max_tokens: longest prompt.
    """

    def __init__(
        self, log: Log, catalogue: Catalogue, template: Template, reasoner: Reasoner, most: int, max_tokens: int
    ) -> None:
        self._histories = Histories(log, catalogue)
        self._catalogue, self._template, self._reasoner = catalogue, template, reasoner
        self._most, self._max_tokens = most, max_tokens
        lines = [template.fill("scenario", title=t, description=d) for _, t, d in catalogue.scenarios]
        self._scenarios = "\n".join(lines)

    def build(self, snapshots: Snapshots) -> list[str]:
        """One prompt per snapshot.

        Rule for the length: the largest n, `most` or fewer, with which the prompt fits into `max_tokens`, where a scenario
        tells its n newest titles and n // 2 typical ones. With a single title per scenario it may still be too long;
        then the reasoner cuts its end.
        """
        best = [self.text(snapshots, i, self._most) for i in range(len(snapshots))]
        low = np.full(len(best), 1)
        high = np.full(len(best), self._most)
        open_ = np.flatnonzero(self._reasoner.tokens(best) > self._max_tokens) if best else np.zeros(0, np.int64)
        high[open_] -= 1
        for i in open_.tolist():
            best[i] = self.text(snapshots, i, 1)
        while len(open_ := open_[low[open_] < high[open_]]):
            middle = (low[open_] + high[open_] + 1) // 2
            tried = [self.text(snapshots, i, n) for i, n in zip(open_.tolist(), middle.tolist(), strict=True)]
            fits = self._reasoner.tokens(tried) <= self._max_tokens
            low[open_[fits]], high[open_[~fits]] = middle[fits], middle[~fits] - 1
            for i, text in zip(open_[fits], [t for t, ok in zip(tried, fits, strict=True) if ok], strict=True):
                best[i] = text
        return best

    def text(self, snapshots: Snapshots, i: int, most: int) -> str:
        """The prompt of snapshot `i` with at most `most` newest titles per scenario, the newest first."""
        user, watermark = int(snapshots.users[i]), int(snapshots.watermarks[i])
        lines = []
        for scenario, (_, title, _) in enumerate(self._catalogue.scenarios):
            items = self._histories.before(user, scenario, watermark)
            newest = list(dict.fromkeys(items[::-1].tolist()))[:most]
            usual = typical(items, self._catalogue.categories, len(newest), most // 2)
            said = {"items": self._titles(newest), "typical": ""}
            if usual:
                said["typical"] = self._template.fill("typical", items=self._titles(usual))
            lines.append(self._template.fill("history", title=title, **said))
        return self._template.fill("prompt", scenarios=self._scenarios, history="\n".join(lines))

    def _titles(self, items: Sequence[int]) -> str:
        titles = [self._template.fill("item", text=self._catalogue.texts[item]) for item in items]
        return ", ".join(titles) if titles else self._template.fill("nothing")
