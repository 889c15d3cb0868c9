"""The point-in-time training table: every row of the log with what could be known just before it.

The join runs through Feast (`get_historical_features` on the generation's training service). Vectors never enter it:
a row carries row numbers of memory-mapped matrices and an end offset into its user's ordered log.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import Built, Clock, Settings, Window, logger
from core.contracts.dataset_spec import DatasetSpec
from core.duck import arrow_of
from core.errors import GateError
from core.segments import link, segments
from core.tables import GRADE, TIMESTAMP
from feature_repo.log import id_types, open_log
from feature_repo.negatives import SAMPLED, with_negatives
from feature_repo.overlay import open_store
from feature_repo.splits import assign_splits
from feature_repo.views import Generation, SourcePaths, apply, generation_of, ref_name
from feature_repo.writing import ROW_GROUP

LOG = logger("feature_repo")
KEYS = ("user_id", "item_id", "scenario", "event_timestamp")
_ROWS = """
SELECT user_id, item_id, scenario, t, label, weight, grade FROM log ORDER BY t, user_id, item_id, scenario
"""


def build_training_table(
    settings: Settings,
    clock: Clock,
    *,
    sources: Sequence[Path],
    features: Path,
    knowledge: Path,
    out: Path,
    window: Window,
    train_start: int,
) -> Built:
    """Write rows.parquet, user_log/ (in segments), vectors/ and spec.json.

    Args:
        settings: declared columns, priors, split and history length.
        clock: rows after its now have not happened yet and are left out.
        sources: folders of validated tables, earlier windows first; rows found in two windows count once.
        features: artifact folder of `build_features`.
        knowledge: artifact folder of the knowledge stage.
        out: an existing folder.
        window: the event time of the rows; what they are joined with may be older.
        train_start: where training starts, in microseconds; earlier rows are `warmup`.

    Returns:
        Rows by split and in all (with drawn negatives also how many of them), and the version of each vector kind.

    Raises:
        GateError: the join lost, repeated or reordered rows.
    """
    work = out / ".work"
    try:
        log = _log_rows(sources, window, clock, work)
        if not log.num_rows:
            raise GateError(f"no interactions in the window {window.key}; nothing can be trained on it")
        log = log.append_column("split", assign_splits(log, settings, train_start))
        if settings.data.negatives is not None:
            how, end = settings.data.negatives, _end(window, clock)
            log = with_negatives(log, sources, how, end=end, scratch=work / "negatives")
        splits = log["split"]
        users, items = features / "users.parquet", features / "items.parquet"
        paths = SourcePaths(users, items, features, knowledge, work / "online")
        generation = generation_of(settings, users=users, items=items, knowledge=knowledge)
        joined = point_in_time(settings, generation, paths, log.select(["row_id", *KEYS]), work / "registry.db")
        rows = _compose(generation, log, joined)
        pq.write_table(rows, out / "rows.parquet", compression="zstd", row_group_size=ROW_GROUP)
        dims = _link_vectors(generation, knowledge, out / "vectors")
        for segment in segments(features / "user_log"):
            link(segment, out / "user_log" / segment.name)
        _spec(settings, generation, dims, sources, train_start).write(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    sampled = {SAMPLED: pc.sum(log[SAMPLED]).as_py() or 0} if SAMPLED in log.column_names else {}
    counts = {entry["values"].as_py(): entry["counts"].as_py() for entry in pc.value_counts(splits)}
    return Built(
        rows={"rows": rows.num_rows, **dict(sorted(counts.items())), **sampled},
        versions={vector.view: vector.version for vector in generation.vectors},
    )


def point_in_time(
    settings: Settings, generation: Generation, paths: SourcePaths, rows: pa.Table, registry: Path
) -> pa.Table:
    """Join rows with the training service of a generation, as of each row's time.

    Args:
        settings: the overlay.
        generation: what is joined.
        paths: the files behind it.
        rows: row_id (0, 1, ...), user_id, item_id, scenario, event_timestamp.
        registry: a registry file of its own, so that the work sees no other definitions.

    Returns:
        The rows in their order, then `VIEW__FEATURE` columns under the views' unversioned names; null is missing.

    Raises:
        GateError: not exactly the rows that went in came out.
    """
    registry.parent.mkdir(parents=True, exist_ok=True)
    store = open_store(settings, registry=registry)
    apply(store, generation, paths, train_only=True)
    job = store.get_historical_features(
        entity_df=rows.to_pandas(),
        features=store.get_feature_service(generation.train_service),
        full_feature_names=True,
        filter_by_created_timestamp=True,
    )
    joined = job.to_arrow().replace_schema_metadata(None)
    check_rows(rows, joined)
    joined = joined.take(pc.sort_indices(joined["row_id"]))
    plain = {f"{ref_name(generation, view)}__": f"{view}__" for view in generation.columns()}
    return joined.rename_columns([_unversioned(name, plain) for name in joined.column_names])


def check_rows(before: pa.Table, after: pa.Table) -> None:
    """A join must keep every row once: as many rows, each row_id once.

    Raises:
        GateError: it did not.
    """
    unique = pc.count_distinct(after["row_id"]).as_py()
    if after.num_rows != before.num_rows or unique != before.num_rows:
        raise GateError(
            f"point-in-time join: {before.num_rows} rows went in, {after.num_rows} came out with {unique} different "
            "row ids; the offline store drops or repeats rows, look at `offline_store` in feature_repo/overlay.py"
        )


def _log_rows(sources: Sequence[Path], window: Window, clock: Clock, work: Path) -> pa.Table:
    """row_id, user_id, item_id, scenario, event_timestamp, label, weight, grade; in order of time, user and item."""
    ids = id_types(sources)
    with open_log(sources, work / "spill", start=window.bounds_micros()[0], end=_end(window, clock)) as log:
        rows = arrow_of(log, _ROWS)
    return pa.table(
        {
            "row_id": pa.array(np.arange(rows.num_rows)),
            "user_id": rows["user_id"].cast(ids.user),
            "item_id": rows["item_id"].cast(ids.item),
            "scenario": rows["scenario"].cast(pa.string()),
            "event_timestamp": rows["t"].cast(TIMESTAMP),
            "label": rows["label"].cast(pa.int8()),
            "weight": rows["weight"].cast(pa.float32()),
            GRADE: rows["grade"].cast(pa.float32()),
        }
    )


def _end(window: Window, clock: Clock) -> int:
    """Rows before this have happened and belong to the window, in microseconds."""
    end, past = window.bounds_micros()[1], clock.now_micros() + 1
    return past if end is None else min(end, past)


def _compose(generation: Generation, log: pa.Table, joined: pa.Table) -> pa.Table:
    """The columns of rows.parquet, under the names models know."""
    views = generation.columns()
    outcomes = ["label", "weight", *([GRADE] if log[GRADE].null_count < log.num_rows else [])]
    flags = [SAMPLED] if SAMPLED in log.column_names else []
    columns = {name: log[name] for name in [*("row_id", *KEYS), *outcomes, "split", *flags]}
    for view in ("user_features", "item_features", "user_stats", "item_stats"):
        columns |= {feature: joined[f"{view}__{feature}"] for feature in views.get(view, ())}
    columns["history_end"] = pc.fill_null(joined["user_history__history_end"], 0)
    vectors = [vector.view for vector in generation.vectors]
    columns |= {f"{view}_row": joined[f"{view}__row"] for view in vectors}
    for view in ("user_stats", "item_stats", "user_history", *vectors):
        columns[f"{view}_watermark"] = joined[f"{view}__watermark"].cast(TIMESTAMP)
        columns[f"{view}_published"] = joined[f"{view}__event_timestamp"].cast(TIMESTAMP)
    return pa.table({name: column.combine_chunks() for name, column in columns.items()})


def _unversioned(name: str, plain: Mapping[str, str]) -> str:
    for prefix, view in plain.items():
        if name.startswith(prefix):
            return view + name.removeprefix(prefix)
    return name


def _link_vectors(generation: Generation, knowledge: Path, out: Path) -> dict[str, int]:
    """Link each matrix into `out`; the vectors' dimensions by view."""
    out.mkdir()
    dims = {}
    for vector in generation.vectors:
        link(knowledge / vector.view / "vectors.npy", out / f"{vector.view}.npy")
        dims[vector.view] = vector.dim
    return dims


def _spec(
    settings: Settings, generation: Generation, dims: Mapping[str, int], sources: Sequence[Path], train_start: int
) -> DatasetSpec:
    """What models and serving need to know of the table."""
    data, ids = settings.data, id_types(sources)
    return DatasetSpec.model_validate(
        {
            "user_categorical": list(data.user_categorical),
            "user_dense": list(data.user_dense),
            "item_categorical": list(data.item_categorical),
            "item_dense": list(data.item_dense),
            "scenarios": _scenarios(sources),
            "history_length": settings.features.history_length,
            "prior_rate": settings.features.prior_rate,
            "prior_weight": settings.features.prior_weight,
            "vectors": {
                vector.view: {"dim": dims[vector.view], "version": vector.version} for vector in generation.vectors
            },
            "views": {view: list(columns) for view, columns in generation.columns().items()},
            "service": generation.service,
            "generation": generation.as_json(),
            "id_types": {"user_id": str(ids.user), "item_id": str(ids.item)},
            "train_start": train_start,
            "negatives": settings.data.negatives.model_dump(mode="json") if settings.data.negatives else None,
        }
    )


def _scenarios(sources: Sequence[Path]) -> list[str]:
    """All scenarios the sources know, in the order in which they first appear."""
    names: dict[str, None] = {}
    for source in sources:
        names |= dict.fromkeys(
            pq.read_table(source / "scenarios.parquet", columns=["scenario"])["scenario"].to_pylist()
        )
    return list(names)
