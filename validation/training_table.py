"""The gate behind the dataset stage: no leak, no lost row, no reference into nowhere. Any fault stops the run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from core import Clock, Settings
from core.contracts.chain import RowsChain
from core.contracts.dataset_spec import DatasetSpec, VectorSpec
from core.contracts.kinds import is_of
from core.duck import name_of
from core.errors import MissingArtifactError
from core.segments import segments, table_path
from core.splits import SAMPLED
from core.training_table import table_of
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
    "user_id": None,
    "item_id": None,
    "scenario": _TEXT,
    "event_timestamp": _TIME,
    "label": _WHOLE,
    "weight": _NUMBER,
    "history_end": _WHOLE,
    **dict.fromkeys(suites.COUNTERS, _NUMBER),
}
_TICK = dt.timedelta(microseconds=1)
_EVER = -(2**63) + 1
# Not all columns: a declared one may be named like a name that a query gives.
_OWN = ", ".join(
    (
        *("file_row_number + 1 AS row", "user_id", "item_id", "event_timestamp", "label", "history_end"),
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
        folder: holds rows/ and user_log/ in segments, vectors/KIND.npy and spec.json. Segments that were taken over from an
            artifact of earlier windows have been judged with it.
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
    spec, new = _spec(folder), _unjudged(folder)
    files = [frames.open_parquet(segment) for segment in new]
    for segment in segments(table_path(folder, "user_log")):
        frames.open_parquet(segment)
    schema = files[0].schema_arrow
    counts, problems = _matrices(folder, spec.vectors)
    times = [name for name in schema.names if name.endswith(("_watermark", "_published"))]
    outcome = Outcome(suites.suite(times, counts, list(spec.scenarios), settings.validation), new[0])
    outcome.judge({"schema_problems": "; ".join(_schema_problems(schema, spec))})
    outcome.judge({"vector_problems": "; ".join(problems), "rows": sum(file.metadata.num_rows for file in files)})
    checker = Checker("training_table", outcome.suite.of("row"))
    columns = [column for rule in outcome.suite.of("row") for column in rule.columns]
    columns += [f"{kind}_{end}" for kind in counts for end in ("row", "watermark")]
    for offset, chunk in frames.shown(files, settings.data.batch_rows, "validating the training table"):
        frame = frames.to_frame(chunk, columns)
        for kind in counts:
            if f"{kind}_watermark" in frame:
                frame[f"{kind}_undated"] = frame[f"{kind}_row"].notna() & frame[f"{kind}_watermark"].isna()
        checker.check(frame, offset)
    outcome.add(checker)
    outcome.stop_on_rows()
    outcome.judge(_facts(folder, new, settings, spec))
    if knowledge is not None:
        outcome.judge({"reference_problems": "; ".join(_reference_problems(folder, new, knowledge, spec))})
    if docs is not None:
        write_data_docs([outcome], docs, clock, run_id)
    return {"verdict": "passed", "tables": {"training_table": outcome.as_json()}}


def _unjudged(folder: Path) -> list[Path]:
    """The segments that no earlier artifact's gate has seen; the last one, where there are none."""
    files = segments(table_of(folder))
    taken = RowsChain.read(folder).taken if (folder / RowsChain.FILE).is_file() else 0
    return files[min(taken, len(files) - 1) :]


def _reference_problems(folder: Path, new: list[Path], knowledge: Path, spec: DatasetSpec) -> list[str]:
    found = []
    for name, about in spec.vectors.items():
        kind = need_kind(name, folder)
        dated = kind.entity != "item"
        found.append(reference_problems(folder, new, knowledge, name, kind.key, dated, about.version))
    return [problem for problem in found if problem]


def _facts(folder: Path, new: list[Path], settings: Settings, spec: DatasetSpec) -> dict[str, Any]:
    with database() as connection:
        view(connection, "new_rows", *new)
        view(connection, "whole", *segments(table_of(folder)))
        drawn = SAMPLED in frames.open_parquet(new[0]).schema_arrow.names
        real = f"NOT {SAMPLED}" if drawn else "true"
        connection.execute(f"CREATE VIEW logged AS SELECT {_OWN}, {real} AS real FROM new_rows")
        connection.execute(
            f"CREATE VIEW past AS SELECT user_id, item_id, epoch_us(event_timestamp) AS t FROM whole WHERE {real}"
        )
        start = max(spec.train_start or _EVER, spec.start or _EVER)
        connection.execute(f"CREATE VIEW learnt AS SELECT * FROM whole WHERE epoch_us(event_timestamp) >= {start}")
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
            "history_leaks": ask.history(),
            "lost_user_stats": ask.lost("user", *(time.get("user_stats") for time in times)),
            "lost_item_stats": ask.lost("item", *(time.get("item_stats") for time in times)),
            "empty_columns": ", ".join(ask.empty(_declared(spec))),
            "share_without_user_knowledge": ask.share_null(f"{users[0]}_row") if users else None,
        }


@dataclass(frozen=True)
class _Questions:
    """Questions about the rows that are judged, `logged`, and about all of them; an answer is empty when all is well.

    Constants and classes are looked for in `learnt`: the rows from the start of training on.
    """

    connection: Any

    def history(self) -> str:
        return self._rows(
            """SELECT r.row, r.user_id FROM logged r LEFT JOIN (
                SELECT * FROM user_log WHERE user_id IN (SELECT user_id FROM logged)
            ) g ON r.user_id = g.user_id AND g.position = r.history_end - 1
            WHERE r.history_end > 0 AND (g.position IS NULL OR g.event_timestamp >= r.event_timestamp)"""
        )

    def lost(self, entity: str, lag: dt.timedelta | None, ttl: dt.timedelta | None) -> str:
        """Rows without statistics though those after an earlier row could be read and had not expired."""
        visible = ((lag or dt.timedelta(0)) + _TICK) // _TICK
        alive = f"WHERE r.t <= p.t + {visible + ttl // _TICK}" if ttl else ""
        return self._rows(
            f"""WITH bare AS (
                SELECT row, {entity}_id AS id, epoch_us(event_timestamp) AS t FROM logged WHERE {entity}_rows IS NULL)
            SELECT r.row, r.id FROM bare r ASOF JOIN (
                SELECT {entity}_id AS id, t FROM past WHERE {entity}_id IN (SELECT id FROM bare)
            ) p ON r.id = p.id AND r.t - {visible} >= p.t {alive}"""
        )

    def jumps(self, entity: str) -> str:
        """Without lag, the counters of a later row are those of the one before plus its rows, label for label."""
        name = f"{entity}_id"
        return self._rows(
            f"""SELECT row, id FROM (
                SELECT min(row) AS row, any_value({name}) AS id, {name}, event_timestamp AS t, count(*) AS n,
                    sum(label) AS p, min({entity}_rows) AS n0, min({entity}_positives) AS p0,
                    lead(n0) OVER w AS n1, lead(p0) OVER w AS p1
                FROM logged WHERE real GROUP BY {name}, event_timestamp WINDOW w AS (PARTITION BY {name} ORDER BY event_timestamp))
            WHERE n1 IS NOT NULL AND (n1 - coalesce(n0, 0) <> n OR p1 - coalesce(p0, 0) <> p)"""
        ).replace("rows", f"states of {name}", 1)

    def many(self, least: int) -> bool:
        """Whether there are so many rows to learn from that a constant is no chance."""
        return bool(one_row(self.connection, f"SELECT count(*) >= {least} AS m FROM learnt")["m"])

    def one_class(self) -> str:
        found = one_row(self.connection, "SELECT count(*) AS n, min(label) AS low, max(label) AS high FROM learnt")
        return "" if found["low"] != found["high"] else f"all {found['n']:,} training rows have label {found['low']}"

    def empty(self, columns: list[str]) -> list[str]:
        return self._columns(columns, "count({0}) = 0", "whole")

    def constant(self, columns: Iterable[str], whole: bool = False) -> list[str]:
        """Columns with one value among the rows to learn from; `whole`: in every row, for what a gap tells something too."""
        test = "min({0}) = max({0})" + (" AND count({0}) = count(*)" if whole else "")
        return self._columns(list(dict.fromkeys(columns)), test, "learnt")

    def share_null(self, column: str) -> float | None:
        found = one_row(self.connection, f"SELECT avg(({name_of(column)} IS NULL)::INT) AS share FROM new_rows")
        return None if found["share"] is None else float(found["share"])

    def _columns(self, columns: list[str], test: str, source: str) -> list[str]:
        if not columns:
            return []
        tests = ", ".join(f"{test.format(name_of(name))} AS {name_of(name)}" for name in columns)
        return [name for name, bad in one_row(self.connection, f"SELECT {tests} FROM {source}").items() if bad]

    def _rows(self, query: str) -> str:
        """How many rows a query of (row, id) finds, and the first of them, counted from 1."""
        found = one_row(
            self.connection,
            f"SELECT count(*) AS n, min(row) AS row, arg_min(id, row) AS id FROM ({query}) AS f(row, id)",
        )
        return f"{found['n']} rows, e.g. row {found['row']} of {found['id']}" if found["n"] else ""


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
