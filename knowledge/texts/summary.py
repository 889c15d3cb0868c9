"""Deterministic text for people: what a snapshot was made from, and which items lie nearest to it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from core.digest import sha256_json
from knowledge.log.catalogue import Catalogue
from knowledge.log.snapshots import Snapshots
from knowledge.log.sources import Log
from knowledge.texts.prompts import Histories, statistics_sentence
from knowledge.texts.scenario_counts import LogStatistics
from knowledge.texts.template import Template

TITLES, CATEGORIES, NEAREST = 3, 3, 5
MAX_CANDIDATES = 10_000
_UNIT_BITS = 20


class Neighbours:
    """The items nearest in meaning to a vector, among the most used ones.

    Unit vectors are put on a grid on which float64 products are exact, so that the order never depends on the machine.

    Args:
        vectors: raw item vectors, float16 [items, d].
        known: bool [items], which of them exist.
        used: int64 [items], rows of each item; the MAX_CANDIDATES most used ones are candidates, all known ones where
            fewer than NEAREST are used at all.

    Attributes:
        items: the candidates' positions, int64 [m].
    """

    def __init__(self, vectors: np.ndarray, known: np.ndarray, used: np.ndarray) -> None:
        order = np.argsort(-used, kind="stable")
        order = order[known[order]]
        often = order[used[order] > 0]
        self.items = np.sort((often if len(often) >= NEAREST else order)[:MAX_CANDIDATES])
        chosen = vectors[self.items].astype(np.float64)
        self._centre = np.rint(chosen.mean(axis=0) * 2.0**16) / 2.0**16 if len(chosen) else np.zeros(vectors.shape[1])
        self._units = _units(chosen - self._centre)

    def digest(self, catalogue: Catalogue) -> str:
        """Hash of the candidates: their ids, the texts that are quoted of them, and their vectors."""
        ids = catalogue.item_ids.take(pa.array(self.items)).to_pylist()
        told = sha256_json([[str(found) for found in ids], [catalogue.texts[item] for item in self.items]])
        return hashlib.sha256(told.encode() + self._centre.tobytes() + self._units.tobytes()).hexdigest()

    def find(self, vectors: np.ndarray, centre: np.ndarray | None = None, block: int = 512) -> np.ndarray:
        """Items nearest by cosine after centring, int64 [n, NEAREST], nearest first; ties: the smaller id.

        Args:
            vectors: raw vectors, float64 [n, d].
            centre: what counts as the middle of `vectors`, [d]; none: the middle of the items.
            block: vectors compared at a time.
        """
        count = min(NEAREST, len(self.items))
        middle = self._centre if centre is None else centre
        found = np.zeros((len(vectors), count), dtype=np.int64)
        for start in range(0, len(vectors) if count else 0, block):
            scores = _units(vectors[start : start + block] - middle) @ self._units.T
            # Nearest in (score descending, position ascending), without sorting all candidates.
            least = np.partition(scores, scores.shape[1] - count, axis=1)[:, -count]
            for i, row in enumerate(scores):
                near = np.flatnonzero(row >= least[i])
                found[start + i] = self.items[near[np.argsort(-row[near], kind="stable")[:count]]]
        return found


def user_summaries(
    log: Log, catalogue: Catalogue, template: Template, snapshots: Snapshots, nearest: np.ndarray
) -> list[str]:
    """One text per snapshot: what was liked per scenario before the watermark, and the nearest items.

    Args:
        log: the interactions.
        catalogue: titles, categories and scenarios.
        template: `summary_v1`.
        snapshots: whose state is told.
        nearest: item rows per snapshot, int64 [n, k].
    """
    histories = Histories(log, catalogue)
    nothing = template.fill("nothing")
    texts = []
    for i, (user, watermark, end) in enumerate(zip(snapshots.users, snapshots.watermarks, snapshots.ends, strict=True)):
        lines = []
        for scenario, (_, title, _) in enumerate(catalogue.scenarios):
            items = histories.before(int(user), scenario, int(watermark))
            if len(items):
                said = {"titles": _quoted(catalogue, items[: -TITLES - 1 : -1]), "categories": _top(catalogue, items)}
                lines.append(template.fill("liked", title=title, positives=len(items), **_or(said, nothing)))
        told = {"scenarios": "\n".join(lines), "nearest": _quoted(catalogue, nearest[i])}
        rows, positives = int(end - log.starts[user]), int(log.labels[log.starts[user] : end].sum())
        texts.append(template.fill("user", rows=rows, positives=positives, **_or(told, nothing)))
    return texts


def scenario_summaries(
    statistics: LogStatistics, catalogue: Catalogue, template: Template, watermark: int, nearest: np.ndarray
) -> list[str]:
    """One text per scenario: description, statistics, most liked titles and categories before `watermark`."""
    nothing = template.fill("nothing")
    texts = []
    for scenario, (counted, (_, title, description)) in enumerate(
        zip(statistics.at(watermark), catalogue.scenarios, strict=True)
    ):
        liked = statistics.liked[scenario]
        top = np.argsort(-liked, kind="stable")[:TITLES]
        items = np.flatnonzero(liked)
        told = {
            "titles": _quoted(catalogue, top[liked[top] > 0]),
            "categories": _top(catalogue, items, liked[items]),
            "nearest": _quoted(catalogue, nearest[scenario]),
        }
        sentence = statistics_sentence(template, counted)
        texts.append(
            template.fill("scenario", title=title, description=description, statistics=sentence, **_or(told, nothing))
        )
    return texts


def _units(vectors: np.ndarray) -> np.ndarray:
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return np.rint(vectors / np.where(norms > 0, norms, 1.0)[:, None] * 2.0**_UNIT_BITS)


def _quoted(catalogue: Catalogue, items: Iterable[int]) -> str:
    return ", ".join(f'"{catalogue.texts[item]}"' for item in items if catalogue.texts[item])


def _top(catalogue: Catalogue, items: Sequence[int] | np.ndarray, times: np.ndarray | None = None) -> str:
    """The commonest categories of items, each of which counts `times` (once without them)."""
    counts: Counter[str] = Counter()
    for item, weight in zip(items, [1] * len(items) if times is None else times.tolist(), strict=True):
        for category in catalogue.categories[item]:
            counts[category] += weight
    return ", ".join(name for name, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:CATEGORIES])


def _or(values: dict[str, str], nothing: str) -> dict[str, str]:
    return {name: value or nothing for name, value in values.items()}
