"""`pooled`: the mean raw vector of the items that a user liked, and beside it that of those not liked."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from knowledge.kinds.fitting import Pieces
from knowledge.kinds.items import Items
from knowledge.kinds.user_kind import OfItems
from knowledge.log.snapshots import Snapshots
from knowledge.log.sources import Log
from knowledge.open_run import OpenLog, OpenRun
from knowledge.pooling import means
from knowledge.pooling.pooler import save_decay


class Pooled(OfItems):
    """See `pooling.means`."""

    def options(self, run: OpenLog) -> dict[str, object]:
        return {} if run.half_life is None else {"half_life": run.half_life}

    def raw(self, run: OpenLog, items: Items, log: Log, due: Snapshots) -> Pieces:
        return means.pool(log, due, items.raw, items.known, run.half_life)

    def stand_in(self, items: Items) -> np.ndarray:
        """Each text as a user who liked it, or disliked it, float64 [2 n, 2 d]."""
        raw = items.raw[items.known]
        nothing = np.zeros_like(raw)
        return np.concatenate([np.hstack([raw, nothing]), np.hstack([nothing, raw])]).astype(np.float64)

    def save(self, run: OpenRun, folder: Path) -> None:
        """The half-life, for the push path."""
        save_decay(folder, run.half_life)


KIND = Pooled()
