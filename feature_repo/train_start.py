"""Where training rows begin: what is before warms up the statistics."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from core import Settings
from core.errors import DataError
from core.splits import SLACK
from feature_repo.interaction_log import id_types, open_log


def compute_train_start(sources: Sequence[Path], settings: Settings) -> int:
    """The time at which training starts: the share `split.warmup` of the log lies before it.

    It is the time of a row; rows of that very time are no warm-up, so ties make the warm-up smaller, never larger.

    Args:
        sources: folders of validated tables; rows found in two count once.
        settings: `split.warmup` counts.

    Returns:
        Microseconds since 1970-01-01 UTC.

    Raises:
        DataError: there are no rows.
    """
    id_types(sources)
    with tempfile.TemporaryDirectory(prefix="llm4msr-") as folder, open_log(sources, Path(folder)) as log:
        count = log.execute("SELECT count(*) FROM log").fetchall()[0][0]
        if not count:
            raise DataError("no interactions; nothing can be trained", file=sources[0] / "interactions.parquet")
        before = int(count * settings.split.warmup + SLACK)
        return int(log.execute(f"SELECT t FROM log ORDER BY t LIMIT 1 OFFSET {before}").fetchall()[0][0])
