"""How far a window's features have drifted from what the champion was trained on; measured for the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import Built, Manifest, Settings, Window
from core.store import write_json
from pipeline.declared import declared, shaping
from pipeline.graph import GRAPH
from pipeline.stages import artifact_store

# Counts grow with the log by themselves: only rates are compared.
RATES = ["user_rate", "item_rate"]


def measure_drift(settings: Settings, window: Window = Window()) -> Manifest:  # noqa: B008
    """Compare the window's training table with that of the champion, and write `drift.json`.

    What is new since the champion was trained counts; where nothing is, all training rows do. A champion that was trained
    in this very window is compared with the one before it. Without a champion the verdict is `no champion`.

    Returns:
        The manifest; `versions["drift"]` is the verdict: drift, stable, too few rows or no champion.

    Raises:
        MissingArtifactError: the window's training table was not built yet.
    """
    store = artifact_store(settings)
    table = store.get("dataset", window)
    reference = _champion_dataset(settings, table)

    def build(out: Path) -> Built:
        body = {"verdict": "no champion", "features": {}, "drifted": []}
        if reference is not None:
            body = _compare(declared(settings, "drift"), reference, table.path)
        write_json(out / "drift.json", body)
        return Built(rows={"drifted": len(body["drifted"])}, versions={"drift": body["verdict"]})

    return store.build(
        "drift",
        window,
        inputs={"dataset": table.digest, "champion": _digest(reference)},
        settings=shaping(settings, "drift"),
        rooms=GRAPH["drift"].rooms,
        builder=build,
    )


def _compare(settings: Settings, reference: Path, current: Path) -> dict[str, Any]:
    from validation import compare

    spec = json.loads((current / "spec.json").read_text())
    kinds = ("user_categorical", "user_dense", "item_categorical", "item_dense")
    columns = [column for kind in kinds for column in spec[kind]]
    columns = list(dict.fromkeys(["label", *RATES, *columns]))
    old, new = _training_rows(reference, columns), _rows(current, columns)
    latest = pc.max(_rows(reference, [])["event_timestamp"])
    fresh = new.filter(pc.greater(new["event_timestamp"], latest))
    return compare(old, fresh if fresh.num_rows else _training_rows(current, columns), columns, settings.validation)


def _rows(folder: Path, columns: list[str]) -> pa.Table:
    file = pq.ParquetFile(folder / "rows.parquet")
    own = ["scenario", "split", "event_timestamp"]
    return file.read(columns=[*own, *(name for name in columns if name in file.schema_arrow.names)])


def _training_rows(folder: Path, columns: list[str]) -> pa.Table:
    rows = _rows(folder, columns)
    return rows.filter(pc.equal(rows["split"], "train"))


def _champion_dataset(settings: Settings, table: Manifest) -> Path | None:
    """The training table of the champion, or of the one before it where the champion was trained on `table`."""
    root = artifact_store(settings).root
    pointer = root / "serving" / "current.json"
    champion = json.loads(pointer.read_text()) if pointer.is_file() else None
    while champion is not None:
        manifest = (root / champion["bundle"]).parent / "manifest.json"
        digest = json.loads(manifest.read_text())["inputs"].get("dataset") if manifest.is_file() else None
        if digest is None:
            return None
        if digest != table.digest:
            return _with_digest(root / "objects" / "dataset", digest)
        champion = champion.get("previous")
    return None


def _with_digest(folder: Path, digest: str) -> Path | None:
    for manifest in sorted(folder.glob("*/manifest.json")):
        if json.loads(manifest.read_text())["digest"] == digest:
            return manifest.parent
    return None


def _digest(folder: Path | None) -> str:
    return "" if folder is None else str(json.loads((folder / "manifest.json").read_text())["digest"])
