"""The point-in-time training table: every row of the log with what could be known just before it.

The join runs through Feast (`get_historical_features` on the generation's training service). Vectors never enter it:
a row carries row numbers of memory-mapped matrices and an end offset into its user's ordered log.

What a row could know never changes, so that an artifact goes on where one of earlier windows ended: it joins the new
windows' rows alone. What later nights do change is not in the rows, see `core.training_table`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import Built, Clock, Settings, Window, logger
from core.contracts.chain import IndexState, RowsChain
from core.contracts.dataset_spec import DatasetSpec
from core.contracts.kinds import KEYS as KEYS_OF
from core.contracts.kinds import is_of
from core.digest import canonical_json
from core.duck import arrow_of, database, name_of, tables_of
from core.errors import GateError
from core.matrix import link_matrix
from core.resources import memory
from core.segments import link, merged_from, read_segments, row_counts, segment_file, segments, table_path
from core.splits import SAMPLED
from core.tables import GRADE, TIMESTAMP, IdTypes
from core.training_table import ROWS, item_ids
from feature_repo.interaction_log import comes_after, id_types, open_log, time_span
from feature_repo.negatives import Negatives
from feature_repo.overlay import open_store
from feature_repo.views import Generation, SourcePaths, Vector, apply, generation_of, ref_name
from feature_repo.writing import rows_in, write_tables

LOG = logger("feature_repo")
KEYS = ("user_id", "item_id", "scenario", "event_timestamp")
_EVER = -(2**63) + 1
# What a row takes in memory while it is joined.
_ROW_BYTES = 1_000
_ROWS = """
SELECT user_id, item_id, scenario, t, label, weight, grade FROM log WHERE t >= {start} AND t < {end}
ORDER BY t, user_id, item_id, scenario
"""
_EDGES = "SELECT DISTINCT t FROM (SELECT t, row_number() OVER (ORDER BY t) - 1 AS n FROM log) WHERE n % {size} = 0 ORDER BY t"
_INDEX = """
SELECT count(*) FILTER (row < {entries}) AS entries,
    bit_xor(hash(concat_ws('|', row, {key}, epoch_us(watermark)))) FILTER (row < {entries})::VARCHAR AS digest,
    min(epoch_us(watermark)) FILTER (row >= {entries}) AS next
FROM {index}
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
    earlier: Sequence[Path] = (),
) -> Built:
    """Write rows/ and user_log/ (in segments), vectors/, chain.json and spec.json.

    Args:
        settings: declared columns, priors, split and history length.
        clock: rows after its now have not happened yet and are left out.
        sources: folders of validated tables, earlier windows first; rows found in two windows count once.
        features: artifact folder of `build_features`.
        knowledge: artifact folder of the knowledge stage.
        out: an existing folder.
        window: the event time of the rows; what they are joined with may be older.
        train_start: where training starts, in microseconds; earlier rows are `warmup`.
        earlier: artifacts of the first of these sources, made with the same settings, those of most sources first. The
            first of them whose rows are as they would be made today is gone on from.

    Returns:
        Rows (with drawn negatives also how many of them), and the version of each vector kind.

    Raises:
        GateError: the join lost, repeated or reordered rows, or there are none.
    """
    work, ids = out / ".work", id_types(sources)
    users, items = features / "users.parquet", features / "items.parquet"
    paths = SourcePaths(users, items, features, knowledge, work / "online")
    generation = generation_of(settings, users=users, items=items, knowledge=knowledge)
    spec = _spec(settings, generation, sources, train_start, window)
    before, chain = _predecessor(sources, earlier, spec, generation, knowledge)
    new, (start, end) = sources[chain.sources :], (window.bounds_micros()[0], _end(window, clock))
    sizes, taken = _take_over(before, chain, out, spec.start)
    until, span = chain.until, time_span(new)
    try:
        with open_log(new, work / "spill", start=start, end=end) as log:
            [(count, last)] = log.execute("SELECT count(*), max(t) FROM log").fetchall()
            if count:
                blocks = _blocks(log, count, ids)
                if (how := settings.data.negatives) is not None:
                    drawn = Negatives(sources, how, end=end, scratch=work / "negatives")
                    blocks = map(drawn.added_to, blocks)
                registry = work / "registry.db"
                joined = (_joined(settings, generation, paths, rows, registry) for rows in blocks)
                sizes.append(write_tables(joined, segment_file(out, ROWS, len(sizes))))
                until = last
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if not sizes:
        raise GateError(f"no interactions in the window {window.key}; nothing can be trained on it")
    sizes, taken = _merge(out, sizes, taken)
    _link_vectors(generation, knowledge, out)
    for segment in segments(features / "user_log"):
        link(segment, out / "user_log" / segment.name)
    spec.write(out)
    RowsChain(
        sources=len(sources),
        until=until,
        segments=tuple(sizes),
        taken=taken,
        ahead=chain.ahead or (span is not None and span[1] >= end),
        vectors={
            one.view: _index_state(knowledge, one)[0] for one in generation.vectors if not is_of(one.view, "item")
        },
    ).write(out)
    return Built(rows=_counts(out, spec), versions={vector.view: vector.version for vector in generation.vectors})


def _predecessor(
    sources: Sequence[Path], earlier: Sequence[Path], spec: DatasetSpec, generation: Generation, knowledge: Path
) -> tuple[Path | None, RowsChain]:
    """The artifact to go on from, and its chain."""
    for folder in earlier:
        chain, theirs = RowsChain.read(folder), DatasetSpec.read(folder)
        vectors = [vector for vector in generation.vectors if vector.view in chain.vectors]
        reasons = {
            "a later window has rows of before its end": not comes_after(sources[chain.sources :], chain),
            "it left rows out that lay ahead of the clock": chain.ahead,
            "it begins later": _since(theirs) > _since(spec),
            "columns or versions are others": canonical_json(theirs.generation) != canonical_json(spec.generation),
            "vectors of its time are others": not all(_goes_on(knowledge, one, chain) for one in vectors),
        }
        if not any(reasons.values()):
            return folder, chain
        LOG.info("dataset: not gone on from %s: %s", folder.name, next(why for why, true in reasons.items() if true))
    return None, RowsChain()


def _since(spec: DatasetSpec) -> int:
    return _EVER if spec.start is None else spec.start


def _goes_on(knowledge: Path, vector: Vector, chain: RowsChain) -> bool:
    """Whether today's vectors are those of then, in their places, and others that no row of then could have read."""
    then = chain.vectors[vector.view]
    now, later = _index_state(knowledge, vector, then.entries)
    return now == then and (later is None or chain.until is None or later > chain.until)


def _index_state(knowledge: Path, vector: Vector, entries: int | None = None) -> tuple[IndexState, int | None]:
    """The state of an index's first entries (None: of all), and the earliest watermark of the others."""
    table = table_path(knowledge / vector.view, "index")
    entries = sum(row_counts(table)) if entries is None else entries
    with database() as connection:
        query = _INDEX.format(entries=entries, key=name_of(KEYS_OF[vector.entity]), index=tables_of(segments(table)))
        [(found, digest, later)] = connection.execute(query).fetchall()
    return IndexState(entries=found, digest=digest or ""), later


def _take_over(before: Path | None, chain: RowsChain, out: Path, start: int | None) -> tuple[list[int], int]:
    """Link the segments that hold a row from `start` on; their rows, and how many there are."""
    sizes: list[int] = []
    for number, size in enumerate(chain.segments if before is not None else ()):
        file = segment_file(before or out, ROWS, number)
        newest = pq.read_metadata(file)
        times = newest.schema.to_arrow_schema().get_field_index("event_timestamp")
        last = newest.row_group(newest.num_row_groups - 1).column(times).statistics.max
        if start is None or pa.scalar(last, TIMESTAMP).cast(pa.int64()).as_py() >= start:
            link(file, segment_file(out, ROWS, len(sizes)))
            sizes.append(size)
    return sizes, len(sizes)


def _merge(out: Path, sizes: list[int], taken: int) -> tuple[list[int], int]:
    """Put small segments together; rows of all segments, and how many are still those that were taken over."""
    start = merged_from(sizes)
    if start == len(sizes):
        return sizes, taken
    files = [segment_file(out, ROWS, number) for number in range(start, len(sizes))]
    merged = out / ROWS / ".merged.parquet"
    write_tables(rows_in(files), merged)
    for file in files:
        file.unlink()
    merged.rename(files[0])
    return [*sizes[:start], sum(sizes[start:])], min(taken, start)


def _counts(out: Path, spec: DatasetSpec) -> dict[str, int]:
    """How many rows count, and of drawn negatives how many of them are such."""
    files = segments(out / ROWS)
    flags = [SAMPLED] if SAMPLED in pq.read_schema(files[0]).names else []
    sums = ", ".join(["count(*)", *(f"count(*) FILTER ({flag})" for flag in flags)])
    with database() as connection:
        found = connection.execute(
            f"SELECT {sums} FROM {tables_of(files)} WHERE epoch_us(event_timestamp) >= {_since(spec)}"
        ).fetchall()
    return dict(zip(["rows", *flags], found[0], strict=True))


def _joined(settings: Settings, generation: Generation, paths: SourcePaths, rows: pa.Table, registry: Path) -> pa.Table:
    """Rows of the log as the table keeps them."""
    return _compose(
        generation, rows, point_in_time(settings, generation, paths, rows.select(["row_id", *KEYS]), registry)
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


def _blocks(log: duckdb.DuckDBPyConnection, count: int, ids: IdTypes) -> Iterator[pa.Table]:
    """The log in order of time, user, item and scenario, in blocks of bounded memory that hold all rows of their times.

    Yields:
        row_id (within the block), user_id, item_id, scenario, event_timestamp, label, weight, grade.
    """
    size, edges = max(1, memory() // _ROW_BYTES), [_EVER]
    if count > size:
        edges += [row[0] for row in log.execute(_EDGES.format(size=size)).fetchall()]
    for start, end in zip(edges, [*edges[1:], 2**63 - 1], strict=True):
        rows = arrow_of(log, _ROWS.format(start=start, end=end))
        if rows.num_rows:
            yield _log_rows(rows, ids)


def _log_rows(rows: pa.Table, ids: IdTypes) -> pa.Table:
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
    """The columns of the rows, under the names models know."""
    views = generation.columns()
    flags = [SAMPLED] if SAMPLED in log.column_names else []
    columns = {name: log[name] for name in [*KEYS, "label", "weight", GRADE, *flags]}
    for view in ("user_features", "item_features", "user_stats", "item_stats"):
        columns |= {feature: joined[f"{view}__{feature}"] for feature in views.get(view, ())}
    columns["history_end"] = pc.fill_null(joined["user_history__history_end"], 0)
    vectors = [vector.view for vector in generation.vectors]
    columns |= {f"{view}_row": joined[f"{view}__row"] for view in vectors}
    for view in ("user_stats", "item_stats", "user_history", *vectors):
        columns[f"{view}_watermark"] = joined[f"{view}__watermark"].cast(TIMESTAMP)
        columns[f"{view}_published"] = joined[f"{view}__event_timestamp"].cast(TIMESTAMP)
    places = {"history_end", *(f"{view}_row" for view in vectors)}
    return pa.table(
        {
            name: (column.cast(pa.int32()) if name in places else column).combine_chunks()
            for name, column in columns.items()
        }
    )


def _unversioned(name: str, plain: Mapping[str, str]) -> str:
    for prefix, view in plain.items():
        if name.startswith(prefix):
            return view + name.removeprefix(prefix)
    return name


def _link_vectors(generation: Generation, knowledge: Path, out: Path) -> None:
    """Link each matrix into `out`, and say whose the vectors of items are."""
    for vector in generation.vectors:
        link_matrix(knowledge / vector.view / "vectors.npy", out / "vectors" / f"{vector.view}.npy")
        if is_of(vector.view, "item"):
            key = KEYS_OF[vector.entity]
            index = read_segments(table_path(knowledge / vector.view, "index"), [key, "row"])
            ids = index.sort_by("row").select([key])
            pq.write_table(ids, item_ids(out, vector.view), compression="zstd")


def _spec(
    settings: Settings, generation: Generation, sources: Sequence[Path], train_start: int, window: Window
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
            "vectors": {vector.view: {"dim": vector.dim, "version": vector.version} for vector in generation.vectors},
            "views": {view: list(columns) for view, columns in generation.columns().items()},
            "service": generation.service,
            "generation": asdict(generation),
            "id_types": {"user_id": str(ids.user), "item_id": str(ids.item)},
            "train_start": train_start,
            "negatives": settings.data.negatives.model_dump(mode="json") if settings.data.negatives else None,
            "split": settings.split.model_dump(include={"kind", "validation", "test"}),
            "start": window.bounds_micros()[0],
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
