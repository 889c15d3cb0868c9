"""`llm4msr push FILE`: fresh interactions of a file change their users' online state at once."""

from __future__ import annotations

from pathlib import Path

from core import Settings, logger
from core.errors import DataError
from ingest.fresh import fresh_rows
from pipeline.commands.follow import keep_rejected

LOG = logger("cli")
_SHOWN = 5


def push_file(settings: Settings, file: Path) -> str:
    """Push the interactions of a parquet, CSV or JSON-lines file: our columns, or the source's own as the settings map them.

    Rows are read by the rules of ingest. Good rows are pushed; the others are appended to `root/live/rejected.jsonl`.

    Raises:
        DataError: the file cannot be read, a column is missing (nothing is pushed then), or rows were refused.
    """
    raw = fresh_rows(settings.data, file)
    from feature_repo import CurrentPusher

    pusher = CurrentPusher(settings).get()
    done = pusher.push_columns(raw.columns, raw.count) if raw.records is None else pusher.push_records(raw.records)
    changed = ", ".join(f"{view} {count}" for view, count in done.views.items())
    said = f"pushed {done.rows} interactions; users written: {changed or 'none'}"
    if done.unknown_items:
        LOG.warning(
            "%s items are not in the catalogue, so that they are not ranked: %s",
            f"{len(done.unknown_items):,}",
            ", ".join(map(str, done.unknown_items[:_SHOWN])),
        )
    if not done.faults:
        return said
    letters = settings.root / "live" / "rejected.jsonl"
    faults = [
        {"line": raw.line(f.row), "field": f.field, "reason": f.reason, "text": raw.text(f.row), "file": str(file)}
        for f in done.faults
    ]
    keep_rejected(letters, faults)
    first = done.faults[0]
    raise DataError(
        f"{first.reason}; {len(faults):,} of {raw.count:,} rows were refused, see {letters}; {said}",
        file=file,
        row=raw.line(first.row),
        column=first.field or None,
    )
