"""Cutting texts into batches by a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def batches(lengths: Sequence[int], budget: int) -> list[np.ndarray]:
    """Cut texts into batches of similar length, the longest first.

    A batch ends where a length ends if it is at least half full there, so that most batches of short texts need no
    padding.

    Args:
        lengths: tokens of each text.
        budget: most tokens of a batch, padding counted; a single longer text is a batch of its own.

    Returns:
        Positions of each batch's texts; every text is in exactly one.
    """
    order, falling = _falling(lengths)
    cut, start = [], 0
    while start < len(order):
        most = max(1, int(-falling[start]))
        stop = min(len(order), start + max(1, budget // most))
        for length in range(int(-falling[stop - 1]), most + 1) if stop < len(order) else ():
            end = int(np.searchsorted(falling, -length, side="right"))
            if end <= stop and 2 * (end - start) * most >= budget:
                stop = end
                break
        cut.append(order[start:stop])
        start = stop
    return cut


def packs(lengths: Sequence[int], budget: int) -> list[np.ndarray]:
    """As `batches`, for texts that lie one after the other without padding: a pack is full up to its last text."""
    order, falling = _falling(lengths)
    ends = np.cumsum(-falling)
    cut, start = [], 0
    while start < len(order):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + budget, side="right")))
        cut.append(order[start:stop])
        start = stop
    return cut


def _falling(lengths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Positions in order of falling length, and minus those lengths."""
    long = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-long, kind="stable")
    return order, -long[order]
