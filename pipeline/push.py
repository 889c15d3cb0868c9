"""`llm4msr push FILE`: fresh interactions of a file change their users' online state at once; what came too late."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from core import ArtifactStore, Settings, Window
from core.errors import DataError
from core.tables import IdTypes, conform, interactions_schema


def push_file(settings: Settings, file: Path) -> str:
    """Push the interactions of a parquet or CSV file in canonical columns, all of them or none.

    Raises:
        DataError: the file cannot be read, or a column, label, scenario or time is wrong.
    """
    from feature_repo import CurrentPusher

    if not file.is_file():
        raise DataError("no such file", file=file)
    pusher = CurrentPusher(settings).get()
    # Guessed types would make the user 007 the user 7.
    texts = {"user_id": pusher.ids.user, "item_id": pusher.ids.item, "scenario": pa.string()}
    options = pyarrow.csv.ConvertOptions(column_types=texts)
    try:
        table = (
            pq.read_table(file) if file.suffix == ".parquet" else pyarrow.csv.read_csv(file, convert_options=options)
        )
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as {file.suffix or 'CSV'}: {error}", file=file) from error
    rows = canonical(table, pusher.ids, file)
    if faults := pusher.faults(rows):
        raise DataError(faults[0].reason, file=file, row=faults[0].row, column=faults[0].field)
    done = pusher.push_sound(rows)
    changed = ", ".join(f"{view} {count}" for view, count in done.views.items())
    return f"pushed {done.rows} interactions; users written: {changed or 'none'}"


def canonical(table: pa.Table, ids: IdTypes, file: Path | None) -> pa.Table:
    """Interactions with defaults for weight and created_timestamp.

    Raises:
        DataError: a column is missing or has a wrong type.
    """
    if "weight" not in table.column_names:
        table = table.append_column("weight", pa.array([1.0] * table.num_rows, pa.float32()))
    if "created_timestamp" not in table.column_names and "event_timestamp" in table.column_names:
        table = table.append_column("created_timestamp", table["event_timestamp"])
    return conform(table, interactions_schema(ids), "interactions", file)


def late_pushes(settings: Settings, window: Window) -> list[tuple[str | None, str | None]]:
    """Start and end of earlier windows to which something was pushed since they were ingested.

    It is online, but not in training; and not online any more once its user's row is written from the log again.
    """
    from ingest import PushedLog

    if not settings.push.ingest or window.start is None:
        return []
    pushed, limit = PushedLog(settings.root), window.start.isoformat()
    earlier = [
        m for m in ArtifactStore(settings.root).all("ingest") if m.window["end"] and str(m.window["end"]) <= limit
    ]
    bounds = [(m.window["start"], m.window["end"], m.inputs.get("pushed")) for m in earlier]
    return [(start, end) for start, end, known in bounds if pushed.digest(Window.parse(start, end)) != known]
