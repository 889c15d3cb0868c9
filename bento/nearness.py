"""Which items of a user's history are so near to an item that it can be said: because you liked that one.

How near two texts are by chance differs from catalogue to catalogue. So the limit is taken from the catalogue itself: of so many
unrelated items as the history has, the nearest one passes it one time in twenty.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from bento.catalogue import Catalogue

# By chance, of a whole history.
CHANCE = 0.05
_PAIRS = 20_000
_KEPT: OrderedDict[tuple[str, str | None], np.ndarray] = OrderedDict()


@dataclass(frozen=True)
class Near:
    """Items that are near.

    Attributes:
        rows: catalogue rows, nearest first.
        similarity: their cosines, -1 to 1.
        limit: what counts as near here; None: the item or all of the history has no text.
    """

    rows: list[int]
    similarity: list[float]
    limit: float | None


def near(catalogue: Catalogue, history: list[object], row: int, most: int = 3) -> Near:
    """The items of a history whose texts are near to an item's.

    Args:
        catalogue: where they are.
        history: ids; those that the catalogue lost do not count.
        row: of the item.
        most: how many to name.
    """
    rows = [r for i in dict.fromkeys(history) if (r := catalogue.rows.get(i)) is not None and r != row]
    target = catalogue.text[row]
    if not rows or not _has_text(target[None])[0]:
        return Near([], [], None)
    vectors = catalogue.text[rows]
    told = _has_text(vectors)
    if not told.any():
        return Near([], [], None)
    found = np.asarray(rows)[told]
    cosine = _cosines(vectors[told], np.broadcast_to(target, vectors[told].shape))
    limit = float(np.quantile(by_chance(catalogue), (1 - CHANCE) ** (1 / len(found))))
    order = [i for i in np.argsort(-cosine, kind="stable")[:most] if cosine[i] >= limit]
    return Near([int(found[i]) for i in order], [float(cosine[i]) for i in order], limit)


def by_chance(catalogue: Catalogue) -> np.ndarray:
    """Cosines of pairs of items drawn at random, ascending; the same for a catalogue whenever they are drawn."""
    key = catalogue.digest, catalogue.text_version
    if (known := _KEPT.get(key)) is not None:
        return known
    rows = np.flatnonzero(_has_text(catalogue.text))
    draw = np.random.default_rng(0)
    one, other = draw.choice(rows, (2, _PAIRS)) if len(rows) > 1 else np.zeros((2, 0), np.int64)
    apart = one != other
    found = np.sort(_cosines(catalogue.text[one[apart]], catalogue.text[other[apart]]))
    _KEPT[key] = found if len(found) else np.ones(1, np.float32)
    while len(_KEPT) > 2:  # the one that is live, and the one that comes
        _KEPT.popitem(last=False)
    return _KEPT[key]


def _has_text(vectors: np.ndarray) -> np.ndarray:
    return np.isfinite(vectors).all(axis=1) & (np.abs(vectors).sum(axis=1) > 0)


def _cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.clip(np.einsum("ij,ij->i", one, other) / np.where(norms > 0, norms, 1.0), -1, 1)
