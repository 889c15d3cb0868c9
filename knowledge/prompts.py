"""Prompts: what the reasoner reads about a user or a scenario, from rows strictly before a watermark."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from knowledge.reasoners.base import Reasoner
from knowledge.snapshots import Snapshots
from knowledge.sources import Catalogue, Log
from knowledge.template import Template


@dataclass(frozen=True)
class ScenarioStatistics:
    """Counts of a scenario's rows, positives, users and items before a watermark."""

    rows: int
    positives: int
    users: int
    items: int

    def fields(self) -> dict[str, str]:
        """The values of a template's statistics section."""
        return {
            "rows": f"{self.rows:,}",
            "users": f"{self.users:,}",
            "items": f"{self.items:,}",
            "rate": f"{100 * self.positives / max(1, self.rows):.1f}",
        }


def scenario_statistics(log: Log, catalogue: Catalogue, watermark: int) -> list[ScenarioStatistics]:
    """One per scenario, in the order of the scenario table, from rows before `watermark` (microseconds)."""
    before = log.times < watermark
    found = []
    for scenario in range(len(catalogue.scenarios)):
        rows = before & (log.scenarios == scenario)
        users, items = np.unique(log.users[rows]), np.unique(log.items[rows])
        found.append(
            ScenarioStatistics(int(rows.sum()), int(log.labels[rows].sum()), len(users), int((items >= 0).sum()))
        )
    return found


def statistics_sentence(template: Template, statistics: ScenarioStatistics) -> str:
    """The statistics in words, or that there are none."""
    return template.fill("statistics", **statistics.fields()) if statistics.rows else template.fill("nothing")


def scenario_prompts(log: Log, catalogue: Catalogue, template: Template, watermark: int) -> list[str]:
    """One prompt per scenario: all scenarios with their statistics, then the question about this one."""
    lines = [
        template.fill(
            "scenario", title=title, description=description, statistics=statistics_sentence(template, statistics)
        )
        for (_, title, description), statistics in zip(
            catalogue.scenarios, scenario_statistics(log, catalogue, watermark), strict=True
        )
    ]
    block = "\n".join(lines)
    return [template.fill("prompt", scenarios=block, title=title) for _, title, _ in catalogue.scenarios]


class Histories:
    """Positives of every user and scenario in order of time, cut at a watermark by bisection."""

    def __init__(self, log: Log, scenarios: int) -> None:
        positive = np.flatnonzero(log.labels & (log.items >= 0))
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


class UserPrompts:
    """Builds user prompts.

    Args:
        log: the interactions.
        catalogue: titles and scenarios.
        template: `user_v1`.
        reasoner: counts the tokens.
        most: titles per scenario at the most.
        max_tokens: longest prompt.
    """

    def __init__(
        self, log: Log, catalogue: Catalogue, template: Template, reasoner: Reasoner, most: int, max_tokens: int
    ) -> None:
        self._histories = Histories(log, len(catalogue.scenarios))
        self._catalogue, self._template, self._reasoner = catalogue, template, reasoner
        self._most, self._max_tokens = most, max_tokens
        lines = [template.fill("scenario", title=t, description=d) for _, t, d in catalogue.scenarios]
        self._scenarios = "\n".join(lines)

    def build(self, snapshots: Snapshots) -> list[str]:
        """One prompt per snapshot.

        Rule for the length: the largest number of titles per scenario, `most` or fewer, with which the prompt fits
        into `max_tokens`; the oldest titles go first. With a single title per scenario it may still be too long; then the
        reasoner cuts its end.
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
        """The prompt of snapshot `i` with at most `most` titles per scenario, the newest first."""
        user, watermark = int(snapshots.users[i]), int(snapshots.watermarks[i])
        lines = []
        for scenario, (_, title, _) in enumerate(self._catalogue.scenarios):
            items = self._histories.before(user, scenario, watermark)[: -most - 1 : -1]
            titles = [self._template.fill("item", text=self._catalogue.texts[item]) for item in items]
            said = ", ".join(titles) if titles else self._template.fill("nothing")
            lines.append(self._template.fill("history", title=title, items=said))
        return self._template.fill("prompt", scenarios=self._scenarios, history="\n".join(lines))
