"""Windows whose ids have another type than today's: their validated tables are written again with the type of the settings.

An int64 is written as its digits; digits are read by the rule of `core.ids`. No source is read again: it may be gone.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from core import ArtifactStore, Built, Manifest, Settings, Window, logger
from core.errors import DataError
from core.ids import read_ids
from core.tables import IdTypes

LOG = logger("pipeline")
TABLES = ("interactions.parquet", "users.parquet", "items.parquet")


def id_types_of(folder: Path) -> IdTypes:
    """The types of the ids in a folder of canonical tables."""
    schema = pq.read_schema(folder / "interactions.parquet")
    return IdTypes(schema.field("user_id").type, schema.field("item_id").type)


def of_one_type(
    settings: Settings, store: ArtifactStore, found: Sequence[Manifest], newest: Manifest
) -> list[Manifest]:
    """Manifests of validated tables with the id types of the newest; those of another type are converted for good.

    Raises:
        DataError: the settings leave the type to each window, or an id cannot be of the type.
    """
    wanted = id_types_of(newest.path)
    return [
        m if id_types_of(m.path) == wanted else _converted(settings, store, m, id_types_of(m.path), wanted, newest)
        for m in found
    ]


def _converted(
    settings: Settings, store: ArtifactStore, old: Manifest, have: IdTypes, want: IdTypes, newest: Manifest
) -> Manifest:
    window = Window.parse(old.window["start"], old.window["end"])
    for entity, ours, theirs in (("user", want.user, have.user), ("item", want.item, have.item)):
        if ours != theirs and settings.data.ids_of(entity) == "auto":  # type: ignore[arg-type]
            raise DataError(
                f"{entity} ids are {ours} in this window and {theirs} in window {window.key}: set data.ids: string (or "
                f"data.ids: {{{entity}: string}}) and run this window again; the ids of earlier windows are then "
                "written as text, too",
                file=newest.path / "interactions.parquet",
                column=f"{entity}_id",
            )
    LOG.info("the ids of window %s are written again: %s and %s", window.key, want.user, want.item)

    latest = store.get(old.stage)
    made = store.build(
        old.stage,
        window,
        inputs={**old.inputs, "converted": old.digest},
        settings={"ids": [str(want.user), str(want.item)]},
        rooms=("core",),
        builder=lambda out: _rewritten(old, out, want),
    )
    if latest.path != old.path:
        store.point_latest(latest)
    for replay in store.all("replay"):
        if replay.inputs.get("validate") == old.digest:
            _replay(store, replay, made, want)
    return made


def _replay(store: ArtifactStore, old: Manifest, validated: Manifest, want: IdTypes) -> None:
    """The same for rows that were replayed from the window's quarantine."""
    store.build(
        "replay",
        Window.parse(old.window["start"], old.window["end"]),
        inputs={**old.inputs, "validate": validated.digest},
        settings={"ids": [str(want.user), str(want.item)]},
        rooms=("core",),
        builder=lambda out: _rewritten(old, out, want),
    )


def _rewritten(old: Manifest, out: Path, want: IdTypes) -> Built:
    """The files of an artifact, the canonical tables among them with ids of other types."""
    for path in sorted(old.path.iterdir()):
        if path.name in TABLES:
            _rewrite(path, out / path.name, want)
        elif path.is_dir():
            shutil.copytree(path, out / path.name)
        elif path.name not in ("manifest.json", "run.json"):
            shutil.copy2(path, out / path.name)
    return Built(rows=old.rows, versions=old.versions)


def _rewrite(path: Path, out: Path, want: IdTypes) -> None:
    source = pq.ParquetFile(path)
    kinds = {"user_id": want.user, "item_id": want.item}
    schema = pa.schema([f.with_type(kinds.get(f.name, f.type)) for f in source.schema_arrow])
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for batch in source.iter_batches(65_536):
            arrays = []
            for field, column in zip(schema, batch.columns, strict=True):
                if field.name in kinds and column.type != field.type:
                    column, faults = read_ids(column, field.type, ())
                    if faults:
                        reason = min(faults.items())[1]
                        raise DataError(f"an earlier window holds this id: {reason}", file=path, column=field.name)
                arrays.append(column)
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
