"""Prompts: what the reasoner reads about a user or a scenario, from rows strictly before a watermark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from knowledge.log.catalogue import Catalogue
from knowledge.log.snapshots import Snapshots
from knowledge.log.sources import Log
from knowledge.reasoners.base import Reasoner
from knowledge.texts.scenario_counts import ScenarioStatistics
from knowledge.texts.template import Template

# How far back typical positives are looked for.
_LOOKED_AT = 200
# What a user prompt tells of scenarios: all with their sentences, all titles, titles of those with a positive.
_DESCRIBED, _NAMED, _OWN = 2, 1, 0


def statistics_sentence(template: Template, statistics: ScenarioStatistics) -> str:
    """The statistics in words, or that there are none."""
    return template.fill("statistics", **statistics.fields()) if statistics.rows else template.fill("nothing")


@dataclass(frozen=True)
class ScenarioPrompts:
    """One prompt per scenario, and how much of the others each tells.

    Attributes:
        texts: one per scenario.
        others: how many of the other scenarios each names or describes, int64 [S].
        described: whether each tells the others' sentences, bool [S].
        cut: whether each scenario's own sentence is not whole, bool [S].
    """

    texts: list[str]
    others: np.ndarray
    described: np.ndarray
    cut: np.ndarray

    def left_out(self, max_tokens: int) -> str:
        """What they leave out, in words; empty where nothing is."""
        many, said = len(self.texts), []
        if not self.described.all():
            few, most = int(self.others.min()), int(self.others.max())
            names = f"{few:,}" if few == most else f"{few:,} to {most:,}"
            names = f"all {most:,}" if few == many - 1 else f"{names} of the {many - 1:,}"
            said.append(
                f"each of {many:,} scenario prompts tells its own sentence and the titles of {names} others, not their sentences"
            )
        if self.cut.any():
            said.append(
                f"the own sentence of {int(self.cut.sum()):,} scenarios is longer than a prompt and loses its end"
            )
        return f"{'; '.join(said)} (knowledge.max_tokens: {max_tokens})" if said else ""


def scenario_prompts(
    found: Sequence[ScenarioStatistics], catalogue: Catalogue, template: Template, reasoner: Reasoner, max_tokens: int
) -> ScenarioPrompts:
    """One prompt per scenario: its own title, sentence and statistics, what fits of the others, then the question.

    What does not fit into `max_tokens` goes in this order, for each prompt by itself: the others' statistics, the
    others' sentences, the others' titles from the last on, the own statistics, the end of the own sentence. So a scenario's
    own sentence is always read, and where there are many, the others' sentences change nothing.
    """
    scenarios = catalogue.scenarios
    many = len(scenarios)
    numbers = [statistics_sentence(template, statistics) for statistics in found]
    longest = max((len(description) for _, _, description in scenarios), default=0)

    def line(i: int, statistics: bool, most: int | None = None) -> str:
        _, title, description = scenarios[i]
        said = numbers[i] if statistics else ""
        return template.fill("scenario", title=title, description=description[:most].rstrip(), statistics=said).rstrip()

    def text(i: int, rung: int) -> str:
        """Rungs: many + 1 and many: others described, with and without statistics; from many - 1 on: so many named;
        -1: no own statistics; below: so many characters fewer of the own sentence.
        """
        own = line(i, rung >= 0, None if rung >= -1 else max(0, len(scenarios[i][2]) + 1 + rung))
        rest = [k for k in range(many) if k != i]
        others = ""
        if rest and rung >= many:
            others = template.fill("described", lines="\n".join(line(k, rung > many) for k in rest))
        elif rest and rung > 0:
            more = template.fill("more", count=len(rest) - rung) if rung < len(rest) else ""
            others = template.fill("named", titles=", ".join(scenarios[k][1] for k in rest[:rung]), more=more)
        filled = template.fill("prompt", own=own, others=others, title=scenarios[i][1])
        return filled if others else filled.replace("\n\n", "\n", 1)

    top = many + 1 if many > 1 else 0
    whole = reasoner.tokens([text(i, top) for i in range(many)]) <= max_tokens
    low, high = np.where(whole, top, -1 - longest), np.where(whole, top + 1, top)
    while (open_ := np.flatnonzero(high - low > 1)).size:
        middle = (low + high) // 2
        fits = reasoner.tokens([text(i, int(middle[i])) for i in open_.tolist()]) <= max_tokens
        low[open_[fits]], high[open_[~fits]] = middle[open_[fits]], middle[open_[~fits]]
    return ScenarioPrompts(
        [text(i, int(rung)) for i, rung in enumerate(low)],
        np.clip(low, 0, many - 1),
        low >= min(many, top),
        low < -1,
    )


class Histories:
    """Positives with a text of every user and scenario in order of time, cut at a watermark by bisection."""

    def __init__(self, log: Log, catalogue: Catalogue) -> None:
        scenarios = len(catalogue.scenarios)
        positive = np.flatnonzero(positives_with_text(log, catalogue))
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

    def last(self, user: int, scenario: int, watermark: int) -> int:
        """When the user last liked something in the scenario before the watermark, microseconds; very early for never."""
        start = int(self._starts[user * self._scenarios + scenario])
        count = len(self.before(user, scenario, watermark))
        return int(self._times[start + count - 1]) if count else -(2**63)


def positives_with_text(log: Log, catalogue: Catalogue) -> np.ndarray:
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
        template: `user_v3`.
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

    def build(self, snapshots: Snapshots) -> list[str]:
        """One prompt per snapshot.

        What does not fit into `max_tokens` goes in this order: titles, down to the newest one of each scenario (a scenario
        tells its n newest titles and n // 2 typical ones, with the largest n that fits); the scenarios' sentences; the scenarios
        in which the user liked nothing; and those in which the user liked something longest ago. What is told of scenarios
        leaves as much room for titles as there is. One title alone may still be too long; then the reasoner cuts its end.
        """
        best = [self.text(snapshots, i, self._most) for i in range(len(snapshots))]
        open_ = np.flatnonzero(self._long(best)) if best else np.zeros(0, np.int64)
        for told in (_DESCRIBED, _NAMED, _OWN):
            least = [self.text(snapshots, i, 1, told) for i in open_.tolist()]
            long = self._long(least)
            for i, text in zip(open_.tolist(), least, strict=True):
                best[i] = text
            self._widen(snapshots, best, open_[~long], told)
            open_ = open_[long]
            if not len(open_):
                return best
        for i in open_.tolist():
            best[i] = self._newest_scenarios(snapshots, i)
        return best

    def text(
        self, snapshots: Snapshots, i: int, most: int, told: int = _DESCRIBED, scenarios: int | None = None
    ) -> str:
        """The prompt of snapshot `i` with at most `most` newest titles per scenario, the newest first.

        Args:
            snapshots: whose state is told.
            i: which of them.
            most: titles per scenario.
            told: whether scenarios are described, named, or named where the user liked something.
            scenarios: of those, only so many in which the user liked something last.
        """
        user, watermark = int(snapshots.users[i]), int(snapshots.watermarks[i])
        liked = [self._histories.before(user, k, watermark) for k in range(len(self._catalogue.scenarios))]
        chosen = [k for k, items in enumerate(liked) if told > _OWN or len(items)]
        if scenarios is not None:
            last = {k: self._histories.last(user, k, watermark) for k in chosen}
            chosen = sorted(sorted(chosen, key=lambda k: -last[k])[:scenarios])
        names, lines = [], []
        for k in chosen:
            _, title, description = self._catalogue.scenarios[k]
            section = "scenario" if told == _DESCRIBED else "named"
            names.append(self._template.fill(section, title=title, description=description))
            items = liked[k]
            newest = list(dict.fromkeys(items[::-1].tolist()))[:most]
            usual = typical(items, self._catalogue.categories, len(newest), most // 2)
            said = {"items": self._titles(newest), "typical": ""}
            if usual:
                said["typical"] = self._template.fill("typical", items=self._titles(usual))
            lines.append(self._template.fill("history", title=title, **said))
        return self._template.fill("prompt", scenarios="\n".join(names), history="\n".join(lines))

    def _long(self, texts: Sequence[str]) -> np.ndarray:
        return self._reasoner.tokens(texts) > self._max_tokens if texts else np.zeros(0, dtype=bool)

    def _widen(self, snapshots: Snapshots, best: list[str], which: np.ndarray, told: int) -> None:
        """Give each prompt as many titles as fit, by bisection; one fits."""
        low, high = np.full(len(best), 1), np.full(len(best), self._most)
        while len(open_ := which[low[which] < high[which]]):
            middle = (low[open_] + high[open_] + 1) // 2
            tried = [self.text(snapshots, i, n, told) for i, n in zip(open_.tolist(), middle.tolist(), strict=True)]
            fits = ~self._long(tried)
            low[open_[fits]], high[open_[~fits]] = middle[fits], middle[~fits] - 1
            for i, text in zip(open_[fits], [t for t, ok in zip(tried, fits, strict=True) if ok], strict=True):
                best[i] = text

    def _newest_scenarios(self, snapshots: Snapshots, i: int) -> str:
        """The newest title of as many scenarios as fit, of one at the least."""
        low, high = 1, len(self._catalogue.scenarios)
        best = self.text(snapshots, i, 1, _OWN, low)
        while low < high:
            middle = (low + high + 1) // 2
            tried = self.text(snapshots, i, 1, _OWN, middle)
            if self._long([tried])[0]:
                high = middle - 1
            else:
                low, best = middle, tried
        return best

    def _titles(self, items: Sequence[int]) -> str:
        titles = [self._template.fill("item", text=self._catalogue.texts[item]) for item in items]
        return ", ".join(titles) if titles else self._template.fill("nothing")
