"""`llm4msr push`: fresh interactions change a user's online state at once."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from core import ArtifactStore, Settings, Window
from core.clock import to_micros
from core.errors import DataError
from core.tables import TIMESTAMP, IdTypes, conform, interactions_schema
from pipeline.stages import artifact_store, clean_tables, stage_clock


def push_file(settings: Settings, file: Path) -> str:
    """Push the interactions of a parquet or CSV file in canonical columns.

    Raises:
        DataError: the file cannot be read, or a column, label, scenario or time is wrong.
    """
    from feature_repo import push
    from knowledge import load_pooler

    if not file.is_file():
        raise DataError("no such file", file=file)
    try:
        table = pq.read_table(file) if file.suffix == ".parquet" else pyarrow.csv.read_csv(file)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as {file.suffix or 'CSV'}: {error}", file=file) from error
    store = artifact_store(settings)
    window = _newest_window(store)
    clean = clean_tables(settings, window)
    clock = stage_clock(settings, window)
    rows = canonical(table, _id_types(clean[-1].path), file)
    known = set(pq.read_table(clean[-1].path / "scenarios.parquet")["scenario"].to_pylist())
    _check(rows, known, clock.now_micros() + int(settings.validation.max_future.total_seconds() * 1e6), file)
    pooler = None
    if "pooled" in settings.knowledge.user_vectors:
        pooler = load_pooler(store.get("knowledge", window).path)
    written = push(settings, clock, rows, sources=[m.path for m in clean], pooler=pooler)
    changed = ", ".join(f"{view} {count}" for view, count in written.items())
    return f"pushed {rows.num_rows} interactions; users written: {changed or 'none'}"


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


def _newest_window(store: ArtifactStore) -> Window:
    """The window that ends last among those whose knowledge was built; one without an end is the newest.

    Raises:
        MissingArtifactError: there is none.
    """
    found = [m.window for m in store.all("knowledge")] or [store.get("knowledge").window]
    newest = max(found, key=lambda window: window["end"] or "~")
    return Window.parse(newest["start"], newest["end"])


def _id_types(folder: Path) -> IdTypes:
    schema = pq.read_schema(folder / "interactions.parquet")
    return IdTypes(schema.field("user_id").type, schema.field("item_id").type)


def _check(rows: pa.Table, scenarios: set[str], latest: int, file: Path) -> None:
    times = rows["event_timestamp"].cast(TIMESTAMP).to_pylist()
    for number, (label, scenario, time) in enumerate(
        zip(rows["label"].to_pylist(), rows["scenario"].to_pylist(), times, strict=True)
    ):
        if label not in (0, 1):
            raise DataError(f"label is {label}, not 0 or 1", file=file, row=number, column="label")
        if scenario not in scenarios:
            raise DataError(f"unknown scenario {scenario!r}", file=file, row=number, column="scenario")
        if to_micros(time) > latest:
            raise DataError(f"{time} lies in the future", file=file, row=number, column="event_timestamp")
