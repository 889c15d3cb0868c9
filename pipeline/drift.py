"""How far a window's features have drifted from what the champion was trained on; measured for the report."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from core import Built, Manifest, Settings, Window
from core.contracts.dataset_spec import DatasetSpec
from core.contracts.drift import Drift
from core.contracts.pointers import BundlePointer
from core.contracts.statistics import COUNTED, statistic_columns
from core.training_table import columns_of, read_rows
from pipeline.declared import declared, shaping
from pipeline.graph import GRAPH
from pipeline.windows import artifact_store

# Counts grow with the log by themselves: only what is no count is compared.
RATES = [name for entity in COUNTED for name, found in statistic_columns(entity).items() if not found.logarithm]


def measure_drift(settings: Settings, window: Window = Window()) -> Manifest:
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
        found = Drift(verdict="no champion", features={}, drifted=())
        if reference is not None:
            found = _compare(declared(settings, "drift"), reference.path, table.path)
        found.write(out)
        return Built(rows={"drifted": len(found.drifted)}, versions={"drift": found.verdict})

    return store.build(
        "drift",
        window,
        inputs={"dataset": table.digest, "champion": reference.digest if reference is not None else ""},
        settings=shaping(settings, "drift"),
        rooms=GRAPH["drift"].rooms,
        builder=build,
    )


def _compare(settings: Settings, reference: Path, current: Path) -> Drift:
    from validation import compare

    spec = DatasetSpec.read(current)
    columns = list(dict.fromkeys(["label", *RATES, *spec.columns("user"), *spec.columns("item")]))
    old, new = _training_rows(reference, columns), _rows(current, columns)
    latest = pc.max(_rows(reference, [])["event_timestamp"])
    fresh = new.filter(pc.greater(new["event_timestamp"], latest))
    return compare(old, fresh if fresh.num_rows else _training_rows(current, columns), columns, settings.validation)


def _rows(folder: Path, columns: list[str]) -> pa.Table:
    known = columns_of(folder)
    return read_rows(folder, ["scenario", "split", "event_timestamp", *(name for name in columns if name in known)])


def _training_rows(folder: Path, columns: list[str]) -> pa.Table:
    rows = _rows(folder, columns)
    return rows.filter(pc.equal(rows["split"], "train"))


def _champion_dataset(settings: Settings, table: Manifest) -> Manifest | None:
    """The training table of the champion, or of the one before it where the champion was trained on `table`."""
    store = artifact_store(settings)
    champion = BundlePointer.read(store.root)
    for release in (champion, champion and champion.previous):
        trained = release and store.find("train", digest=release.digest)
        if not trained:
            return None
        digest = trained[0].inputs["dataset"]
        if digest != table.digest:
            return next(iter(store.find("dataset", digest=digest)), None)
    return None
