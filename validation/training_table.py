"""The gate behind the dataset stage: no leak, no lost row, no reference into nowhere. Any fault stops the run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from core import Clock, Settings
from core.contracts.dataset_spec import DatasetSpec, VectorSpec
from core.contracts.kinds import is_of
from core.duck import name_of
from core.errors import MissingArtifactError
from core.segments import segments, table_path
from validation import frames
from validation.database import database, one_row, view
from validation.docs import write_data_docs
from validation.engine import Checker
from validation.files import need_kind, read_matrix
from validation.identity import reference_problems
from validation.report import Outcome
from validation.suites import training_table as suites

_TEXT, _NUMBER, _WHOLE, _TIME = "text", "a number", "an integer", "a timestamp"
BASE = {
    "row_id": _WHOLE,
    "user_id": None,
    "item_id": None,
    "scenario": _TEXT,
    "event_timestamp": _TIME,
    "label": _WHOLE,
    "weight": _NUMBER,
    "split": _TEXT,
    "history_end": _WHOLE,
    **dict.fromkeys(suites.COUNTERS, _NUMBER),
}
_TICK = dt.timedelta(microseconds=1)
# Not all columns: a declared one may be named like a name that a query gives.
_OWN = ", ".join(
    (
        *("row_id", "user_id", "item_id", "event_timestamp", "label"),
        *("user_rows", "user_positives", "item_rows", "item_positives"),
    )
)


def validate_training_table(
    folder: Path,
    settings: Settings,
    clock: Clock,
    knowledge: Path | None = None,
    docs: Path | None = None,
    run_id: str = "",
) -> dict[str, Any]:
    """Judge a dataset artifact.

    Args:
        folder: holds rows.parquet, user_log/, vectors/KIND.npy and spec.json.
        settings: `features.lag` says from when on statistics must be there.
        clock: the time that Data Docs show.
        knowledge: the knowledge artifact the rows refer to: each row must point to a vector of its own ids, and each
            vector must be the one that was made.
        docs: where Data Docs go; None: none are written.
        run_id: the run that they name.

    Returns:
        What was found, JSON-able, the same for the same data.

    Raises:
        GateError: names rule, row and value.
        MissingArtifactError: a file is missing.
    """
    spec = _spec(folder)
    file = frames.open_parquet(folder / "rows.parquet")
    user_log = table_path(folder, "user_log")
    for segment in segments(user_log):
        frames.open_parquet(segment)
    schema = file.schema_arrow
    counts, problems = _matrices(folder, spec.vectors)
    times = [name for name in schema.names if name.endswith(("_watermark", "_published"))]
    outcome = Outcome(suites.suite(times, counts, list(spec.scenarios), settings.validation), folder / "rows.parquet")
    outcome.judge({"schema_problems": "; ".join(_schema_problems(schema, spec))})
    outcome.judge({"vector_problems": "; ".join(problems), "rows": file.metadata.num_rows})
    checker = Checker("training_table", outcome.suite.of("row"))
    columns = [column for rule in outcome.suite.of("row") for column in rule.columns]
    columns += [f"{kind}_{end}" for kind in counts for end in ("row", "watermark")]
    size = settings.data.batch_rows
    for offset, chunk in frames.shown(file, size, "validating the training table"):
        frame = frames.to_frame(chunk, columns)
        for kind in counts:
            if f"{kind}_watermark" in frame:
                frame[f"{kind}_undated"] = frame[f"{kind}_row"].notna() & frame[f"{kind}_watermark"].isna()
        checker.check(frame, offset)
    outcome.add(checker)
    outcome.stop_on_rows()
    outcome.judge(_facts(folder, settings, spec))
    if knowledge is not None:
        outcome.judge({"reference_problems": "; ".join(_reference_problems(folder, knowledge, spec))})
    if docs is not None:
        write_data_docs([outcome], docs, clock, run_id)
    return {"verdict": "passed", "tables": {"training_table": outcome.as_json()}}


def _reference_problems(folder: Path, knowledge: Path, spec: DatasetSpec) -> list[str]:
    found = []
    for name, about in spec.vectors.items():
        kind = need_kind(name, folder)
        dated = kind.entity != "item"
        found.append(reference_problems(folder, knowledge, name, kind.key, dated, about.version))
    return [problem for problem in found if problem]


def _facts(folder: Path, settings: Settings, spec: DatasetSpec) -> dict[str, Any]:
    with database() as connection:
        view(connection, "training", folder / "rows.parquet")
        logged = (
            "NOT sampled" if "sampled" in frames.open_parquet(folder / "rows.parquet").schema_arrow.names else "true"
        )
        connection.execute(f"CREATE VIEW logged AS SELECT {_OWN}, {logged} AS real FROM training")
        view(connection, "user_log", *segments(table_path(folder, "user_log")))
        ask = _Questions(connection)
        users = [view for view in spec.vectors if is_of(view, "user")]
        times = settings.features.lag, settings.features.ttl
        live = [entity for entity in ("user", "item") if not any(time.get(f"{entity}_stats") for time in times)]
        many, counters = ask.many(settings.validation.constant_rows), ask.constant(suites.COUNTERS)
        declared = [name for name in _declared(spec) if name not in settings.validation.allow_constant]
        features = ask.constant(declared, whole=True)
        return {
            "one_class": ask.one_class() if ask.many(settings.validation.one_class_rows) else "",
            "statistics_jump": "; ".join(filter(None, map(ask.jumps, live))),
            "constant_counters": ", ".join(counters) if many else "",
            "constant_features": ", ".join(features) if many else "",
            "constant_features_of_few": "" if many else ", ".join(features),
            "row_id_problems": ask.row_ids(),
            "history_leaks": ask.history(),
            "lost_user_stats": ask.lost("user", *(time.get("user_stats") for time in times)),
            "lost_item_stats": ask.lost("item", *(time.get("item_stats") for time in times)),
            "empty_columns": ", ".join(ask.empty(_declared(spec))),
            "splits_out_of_order": ask.split_order(),
            "share_without_user_knowledge": ask.share_null(f"{users[0]}_row") if users else None,
        }


@dataclass(frozen=True)
class _Questions:
    """Questions about the whole table; each answer is a text that is empty when all is well."""

    connection: Any

    def row_ids(self) -> str:
        found = one_row(
            self.connection,
            """SELECT count(*) AS rows, count(DISTINCT row_id) AS ids, min(row_id) AS low, max(row_id) AS high
            FROM training""",
        )
        good = found["ids"] == found["rows"] and found["low"] == 0 and found["high"] == found["rows"] - 1
        if good:
            return ""
        return f"{found['rows']} rows have {found['ids']} row_ids from {found['low']} to {found['high']}"

    def history(self) -> str:
        return self._rows(
            """SELECT r.row_id, r.user_id FROM training r LEFT JOIN user_log g
            ON r.user_id = g.user_id AND g.position = r.history_end - 1
            WHERE r.history_end > 0 AND (g.position IS NULL OR g.event_timestamp >= r.event_timestamp)"""
        )

    def lost(self, entity: str, lag: dt.timedelta | None, ttl: dt.timedelta | None) -> str:
        """Rows without statistics though those after an earlier row could be read and had not expired."""
        visible = ((lag or dt.timedelta(0)) + _TICK) // _TICK
        alive = f"AND t <= seen + {visible + ttl // _TICK}" if ttl else ""
        return self._rows(
            f"""SELECT row_id, {entity}_id FROM (
                SELECT row_id, {entity}_id, {entity}_rows, t, max(CASE WHEN real THEN t END) OVER (PARTITION BY {entity}_id ORDER BY t
                    RANGE BETWEEN UNBOUNDED PRECEDING AND {visible} PRECEDING) AS seen
                FROM (SELECT *, epoch_us(event_timestamp) AS t FROM logged))
            WHERE {entity}_rows IS NULL AND seen IS NOT NULL {alive}"""
        )

    def jumps(self, entity: str) -> str:
        """Without lag, the counters of a later row are those of the one before plus its rows, label for label."""
        name = f"{entity}_id"
        return self._rows(
            f"""SELECT row, id FROM (
                SELECT min(row_id) AS row, any_value({name}) AS id, {name}, event_timestamp AS t, count(*) AS n,
                    sum(label) AS p, min({entity}_rows) AS n0, min({entity}_positives) AS p0,
                    lead(n0) OVER w AS n1, lead(p0) OVER w AS p1
                FROM logged WHERE real GROUP BY {name}, event_timestamp WINDOW w AS (PARTITION BY {name} ORDER BY event_timestamp))
            WHERE n1 IS NOT NULL AND (n1 - coalesce(n0, 0) <> n OR p1 - coalesce(p0, 0) <> p)"""
        ).replace("rows", f"states of {name}", 1)

    def many(self, least: int) -> bool:
        """Whether there are so many training rows that a constant is no chance."""
        return bool(
            one_row(self.connection, f"SELECT count(*) >= {least} AS m FROM training WHERE split = 'train'")["m"]
        )

    def one_class(self) -> str:
        found = one_row(
            self.connection,
            "SELECT count(*) AS n, min(label) AS low, max(label) AS high FROM training WHERE split = 'train'",
        )
        return "" if found["low"] != found["high"] else f"all {found['n']:,} training rows have label {found['low']}"

    def split_order(self) -> str:
        return self._rows(
            """SELECT r.row_id, r.user_id FROM training r JOIN (
                SELECT user_id, max(event_timestamp) AS last FROM training WHERE split = 'train' GROUP BY user_id
            ) t ON r.user_id = t.user_id WHERE r.split = 'test' AND r.event_timestamp < t.last"""
        )

    def empty(self, columns: list[str]) -> list[str]:
        return self._columns(columns, "count({0}) = 0", "training")

    def constant(self, columns: Iterable[str], whole: bool = False) -> list[str]:
        """Columns with one value among the training rows; `whole`: in every row, for what a gap tells something too."""
        test = "count(DISTINCT {0}) = 1" + (" AND count({0}) = count(*)" if whole else "")
        return self._columns(list(dict.fromkeys(columns)), test, "training WHERE split = 'train'")

    def share_null(self, column: str) -> float | None:
        found = one_row(self.connection, f"SELECT avg(({name_of(column)} IS NULL)::INT) AS share FROM training")
        return None if found["share"] is None else float(found["share"])

    def _columns(self, columns: list[str], test: str, source: str) -> list[str]:
        if not columns:
            return []
        tests = ", ".join(f"{test.format(name_of(name))} AS {name_of(name)}" for name in columns)
        return [name for name, bad in one_row(self.connection, f"SELECT {tests} FROM {source}").items() if bad]

    def _rows(self, query: str) -> str:
        """How many rows a query of (row_id, id) finds, and the first of them."""
        found = one_row(
            self.connection,
            f"SELECT count(*) AS n, min(row_id) AS row, arg_min(id, row_id) AS id FROM ({query}) AS f(row_id, id)",
        )
        return f"{found['n']} rows, e.g. row_id {found['row']} of {found['id']}" if found["n"] else ""


def _matrices(folder: Path, vectors: Mapping[str, VectorSpec]) -> tuple[dict[str, int], list[str]]:
    counts, problems = {}, []
    for kind, what in vectors.items():
        matrix, problem = read_matrix(folder / "vectors" / f"{kind}.npy")
        counts[kind] = len(matrix)
        if problem:
            problems.append(problem)
        elif len(matrix) and matrix.shape[1] != what.dim:
            problems.append(f"{kind} vectors have {matrix.shape[1]} numbers, spec.json says {what.dim}")
    return counts, problems


def _schema_problems(schema: pa.Schema, spec: DatasetSpec) -> list[str]:
    dated = [view for view in spec.vectors if not is_of(view, "item")]
    wanted: dict[str, str | None] = {
        **BASE,
        **dict.fromkeys(_declared(spec)),
        **{f"{kind}_row": _WHOLE for kind in spec.vectors},
        **{f"{kind}_watermark": _TIME for kind in (*suites.STATS, *dated)},
        **{f"{kind}_published": _TIME for kind in (*suites.STATS, *dated)},
    }
    found = []
    for name, kind in wanted.items():
        if name not in schema.names:
            found.append(f"column {name!r} is missing")
        elif kind is not None and not _is(schema.field(name).type, kind):
            found.append(f"column {name!r} is {schema.field(name).type}, needs {kind}")
    return found


def _is(kind: pa.DataType, wanted: str) -> bool:
    tests: dict[str, bool] = {
        _TEXT: frames.is_text(kind),
        _NUMBER: frames.is_number(kind),
        _WHOLE: pa.types.is_integer(kind),
        _TIME: pa.types.is_timestamp(kind),
    }
    return tests[wanted]


def _declared(spec: DatasetSpec) -> list[str]:
    return [*spec.columns("user"), *spec.columns("item")]


def _spec(folder: Path) -> DatasetSpec:
    try:
        return DatasetSpec.read(folder)
    except OSError as error:
        raise MissingArtifactError(
            f"{folder / DatasetSpec.FILE}: {error.strerror}; run `llm4msr dataset` again"
        ) from error
