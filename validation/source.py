"""The gate behind `ingest`: faulty rows go to quarantine, faulty tables stop the run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import Built, Clock, Settings, Window, catalogues, logger, to_micros
from core.contracts.gates import GateResults
from core.duck import name_of
from core.manifest import RUN_FOLDER
from core.tables import GRADE, ROW_NUMBER, SCENARIOS, IdTypes, conform, interactions_schema, items_schema, users_schema
from validation import frames, history, withdrawals
from validation.database import Repeats, database, one_row, repeats, view
from validation.docs import write_data_docs
from validation.engine import Checker
from validation.quarantine import KEEP, Splitter
from validation.report import Outcome, share
from validation.suites import interactions, items, scenarios, users

LOG = logger("validation")
# Among fewer users or items one with a large share is no surprise.
FEW_IDS = 50
TABLES = ("interactions", "users", "items", "scenarios")


def validate_source(
    source: Path,
    out: Path,
    settings: Settings,
    clock: Clock,
    run_id: str,
    *,
    window: Window = Window(),
    earlier: Sequence[GateResults] = (),
    docs: bool = True,
    part_of: Path | None = None,
    previous: Path | None = None,
    replaced: Path | None = None,
) -> Built:
    """Judge the four canonical tables of an ingest artifact.

    Args:
        source: folder with interactions, users, items and scenarios as parquet.
        out: gets the same four files (sound rows only, in the strict schemas), quarantine_*.parquet, results.json and
            run/data_docs/index.html.
        settings: sections `validation` and `data`.
        clock: rows later than its now (plus the allowed skew) are from the future.
        run_id: what quarantined rows name. It is part of the output's bytes: hand in a name that is the same when the
            same run is repeated.
        window: the stretch of event time that was ingested.
        earlier: results.json of the windows before this one, in order; the window must look like them.
        docs: whether to write Data Docs, which take longer than a small table's checks.
        part_of: the validated tables that these rows belong to and were set aside from. Rules about whole tables then
            only report, and a row whose key is there already is a repeated one.
        previous: the validated tables of the window before; a snapshot that lacks too much of it was cut short.
        replaced: those of an earlier run of this very window, to compare with where there is no window before. They are
            judged by, and not told of: the output does not depend on them.

    Returns:
        Row counts: interactions, users, items, scenarios (all sound), quarantined and quarantined_TABLE; and, of snapshots,
        withdrawn_items and withdrawn_users since the window before.

    Raises:
        GateError: a table as a whole is at fault; the message says what to look at.
        MissingArtifactError: a file is missing.
        DataError: a file is not parquet.
    """
    files = {name: frames.open_parquet(source / f"{name}.parquet") for name in TABLES}
    paths = {name: source / f"{name}.parquet" for name in TABLES}
    job = _Job(files, paths, out, settings, clock, run_id, _id_types(files), part_of)
    outcomes = {"scenarios": job.scenarios()}
    with database() as connection:
        for name in TABLES:
            view(connection, name, paths[name])
            if part_of is not None:
                view(connection, f"known_{name}", part_of / f"{name}.parquet")
        job.connection = connection
        outcomes |= {"items": job.items(), "users": job.users(), "interactions": job.interactions()}
    _check_catalogue_links(outcomes["interactions"], out, settings.validation.max_share_of_one)
    withdrawn = {}
    if (source / catalogues.FILE).is_file():
        shutil.copyfile(source / catalogues.FILE, out / catalogues.FILE)
        withdrawn = _check_withdrawn(outcomes, out, previous, replaced)
    _check_history(outcomes["interactions"], out, settings, window, earlier, previous)
    GateResults.model_validate({"verdict": "passed", "tables": {n: o.as_json() for n, o in outcomes.items()}}).write(
        out
    )
    if docs:
        write_data_docs(list(outcomes.values()), out / RUN_FOLDER / "data_docs", clock, run_id)
    rows = {name: int(outcomes[name].facts["clean_rows"]) for name in TABLES}
    rejected = {f"quarantined_{n}": int(outcomes[n].facts["quarantined"]) for n in ("interactions", "users", "items")}
    return Built(rows={**rows, "quarantined": sum(rejected.values()), **rejected, **withdrawn})


@dataclass
class _Job:
    files: dict[str, pq.ParquetFile]
    paths: dict[str, Path]
    out: Path
    settings: Settings
    clock: Clock
    run_id: str
    ids: IdTypes
    part_of: Path | None = None
    connection: Any = None

    def scenarios(self) -> Outcome:
        outcome = Outcome(scenarios.suite(), self.paths["scenarios"])
        problems = frames.type_problems(self.files["scenarios"].schema_arrow, SCENARIOS)
        outcome.judge({"schema_problems": "; ".join(problems)})
        table = frames.blank_to_null(self.files["scenarios"].read(), SCENARIOS.names)
        rows = table.select(SCENARIOS.names).to_pylist()
        blank = [f"row {i} column {name}" for i, row in enumerate(rows, 1) for name in SCENARIOS.names if not row[name]]
        outcome.judge(
            {
                "rows": len(rows),
                "blank_cells": ", ".join(blank),
                "repeated_names": _repeated([row["scenario"] for row in rows]),
                "repeated_texts": _repeated([row["description"] for row in rows]),
            }
        )
        pq.write_table(conform(table, SCENARIOS, "scenarios"), self.out / "scenarios.parquet", compression="zstd")
        outcome.facts |= {"clean_rows": len(rows), "quarantined": 0}
        self.names = [row["scenario"] for row in rows]
        return outcome

    def users(self) -> Outcome:
        schema = self.files["users"].schema_arrow
        expected = users_schema(self.ids, _others(schema, users_schema(self.ids)))
        data = self.settings.data
        texts, dense = _texts(schema, "user_id"), _present(schema, data.user_dense)
        outcome = Outcome(users.suite(self.settings, texts, dense), self.paths["users"], self.part_of is None)
        problems = frames.type_problems(schema, users_schema(self.ids))
        problems += _declared_problems(schema, data.user_categorical, data.user_dense)
        outcome.judge({"schema_problems": "; ".join(problems)})
        self._split("users", outcome, expected, users.KEY)
        outcome.judge(_quarantined_share(outcome))
        return outcome

    def items(self) -> Outcome:
        schema = self.files["items"].schema_arrow
        expected = items_schema(self.ids, _others(schema, items_schema(self.ids)))
        data = self.settings.data
        texts, dense = _texts(schema, "item_id"), _present(schema, data.item_dense)
        outcome = Outcome(items.suite(self.settings, texts, dense), self.paths["items"], self.part_of is None)
        problems = frames.type_problems(schema, items_schema(self.ids))
        problems += _declared_problems(schema, [*data.item_categorical, *data.item_text], data.item_dense)
        outcome.judge({"schema_problems": "; ".join(problems), "rows": self.files["items"].metadata.num_rows})
        with_text = 0

        def derive(chunk: pa.Table, frame: pd.DataFrame) -> None:
            frame["unknown_scenarios"] = _unknown_scenarios(chunk.column("scenarios"), self.names)

        def count_text(chunk: pa.Table) -> None:
            nonlocal with_text
            with_text += _rows_with_text(chunk, data.item_text)

        self._split("items", outcome, expected, items.KEY, derive, count_text)
        clean = outcome.facts["clean_rows"]
        missing = "" if with_text or not clean else f"none of {clean:,} items has a text"
        text = {"share_with_text": share(with_text, clean), "text_missing": missing}
        some = {"items_without_text": clean - with_text if with_text else 0}
        outcome.judge({**_quarantined_share(outcome), **text, **some})
        return outcome

    def interactions(self) -> Outcome:
        schema = self.files["interactions"].schema_arrow
        expected = interactions_schema(self.ids, _others(schema, interactions_schema(self.ids)))
        suite = interactions.suite(self.settings, self.clock, self.names, GRADE in schema.names)
        outcome = Outcome(suite, self.paths["interactions"], self.part_of is None)
        outcome.judge({"schema_problems": "; ".join(frames.type_problems(schema, interactions_schema(self.ids)))})
        count = self.files["interactions"].metadata.num_rows
        ids = {"catalogue_id_problems": "; ".join(self._id_problems())}
        outcome.judge({**ids, "rows": count, **self._time_facts(), **self._label_conflicts()})
        positives = 0

        def count_positives(chunk: pa.Table) -> None:
            nonlocal positives
            positives += pc.sum(chunk.column("label")).as_py() or 0

        self._split("interactions", outcome, expected, interactions.KEY, after=count_positives)
        clean = outcome.facts["clean_rows"]
        outcome.facts |= {"positives": positives}
        labels = _one_class(positives, clean, self.settings.validation.one_class_rows)
        if self.settings.data.negatives is not None and positives:
            labels = dict.fromkeys(labels, "")
        outcome.judge({**_quarantined_share(outcome), "clean_rows": clean, **labels})
        return outcome

    def _split(
        self,
        name: str,
        outcome: Outcome,
        clean: pa.Schema,
        key: tuple[str, ...],
        derive: Callable[[pa.Table, pd.DataFrame], None] = lambda chunk, frame: None,
        after: Callable[[pa.Table], None] = lambda chunk: None,
    ) -> None:
        """Run the row rules chunk by chunk and write sound and rejected rows."""
        file, size = self.files[name], self.settings.data.batch_rows
        row_rules, key_rules = outcome.suite.of("row"), outcome.suite.of("key")
        rows, keys = Checker(name, row_rules), Checker(f"{name} keys", key_rules)
        names = [rule.name for rule in (*row_rules, *key_rules)]
        first = _FirstOfKey(repeats(self.connection, name, key))
        known = self._known(name, key)
        columns = [column for rule in row_rules for column in rule.columns]
        with Splitter(self.out, name, clean, file.schema_arrow, self.run_id) as splitter:
            for offset, chunk in frames.shown([file], size, f"validating {name}"):
                frame = frames.to_frame(frames.blank_to_null(chunk, ("user_id", "item_id", "scenario")), columns)
                derive(chunk, frame)
                owner = np.full(chunk.num_rows, KEEP, dtype=np.int64)
                _own(owner, rows, rows.check(frame, offset), names)
                repeated = first.repeated(offset, owner == KEEP)
                repeated[known[(known >= offset) & (known < offset + len(repeated))] - offset] = True
                _own(owner, keys, keys.check(pd.DataFrame({"repeated": repeated}), offset), names)
                splitter.write(chunk, owner, names, offset)
                after(chunk.filter(pa.array(owner == KEEP)))
        outcome.add(rows)
        outcome.add(keys)
        outcome.facts |= {"clean_rows": splitter.clean, "quarantined": splitter.quarantined}

    def _known(self, name: str, key: tuple[str, ...]) -> np.ndarray:
        """Rows whose key the tables they belong to hold already, int64 [r]."""
        if self.part_of is None:
            return np.empty(0, dtype=np.int64)
        columns = ", ".join(map(name_of, key))
        query = f"""SELECT file_row_number AS row FROM {name}
            SEMI JOIN (SELECT {columns} FROM known_{name}) USING ({columns})"""
        return np.asarray(self.connection.execute(query).fetchnumpy()["row"], dtype=np.int64)

    def _id_problems(self) -> list[str]:
        log = self.files["interactions"].schema_arrow
        pairs = (("user_id", "users"), ("item_id", "items"))
        return [
            f"{column} is {log.field(column).type} in interactions and {other.field(column).type} in {table}"
            for column, table in pairs
            if (other := self.files[table].schema_arrow).field(column).type != log.field(column).type
        ]

    def _label_conflicts(self) -> dict[str, Any]:
        key = ", ".join(interactions.KEY)
        return one_row(
            self.connection,
            f"""SELECT count(*) AS repeated_keys_with_both_labels FROM (
                SELECT 1 FROM interactions GROUP BY {key} HAVING count(*) > 1 AND min(label) <> max(label)
            )""",
        )

    def _time_facts(self) -> dict[str, Any]:
        latest = to_micros(self.clock.now() + self.settings.validation.max_future)
        found = one_row(
            self.connection,
            """SELECT count(event_timestamp) AS dated,
                count(*) FILTER (epoch_us(event_timestamp) < ?) AS early,
                count(*) FILTER (epoch_us(event_timestamp) > ?) AS late
            FROM interactions""",
            [to_micros(self.settings.validation.earliest), latest],
        )
        dated = found["dated"]
        return {
            "share_too_early": share(found["early"], dated),
            "share_in_future": share(found["late"], dated),
        }


class _FirstOfKey:
    """Which rows repeat the key of an earlier sound row."""

    def __init__(self, found: Repeats) -> None:
        self._found = found
        self._kept: set[int] = set()

    def repeated(self, offset: int, sound: np.ndarray) -> np.ndarray:
        """For the rows from `offset`; rows that are not sound are never called repeated."""
        result = np.zeros(len(sound), dtype=bool)
        for position, group in zip(*self._found.among(offset, len(sound)), strict=True):
            if sound[position]:
                result[position] = int(group) in self._kept
                self._kept.add(int(group))
        return result


def _quarantined_share(outcome: Outcome) -> dict[str, float | None]:
    clean, rejected = outcome.facts["clean_rows"], outcome.facts["quarantined"]
    return {"quarantined_share": share(rejected, clean + rejected)}


def _one_class(positives: int, rows: int, many: int) -> dict[str, str]:
    """What to say about a log of positives, or of negatives, only."""
    found = {"only_positives": "", "only_negatives": "", "one_class_of_few": ""}
    if rows and positives in (0, rows):
        kind = "positives" if positives else "negatives"
        said = f"all {rows:,} rows are {kind.removesuffix('s')}"
        found[f"only_{kind}" if rows >= many else "one_class_of_few"] = said
    return found


def _own(owner: np.ndarray, checker: Checker, found: dict[str, np.ndarray], names: list[str]) -> None:
    """Give each broken row to the first rule that it breaks."""
    for name, positions in found.items():
        free = positions[owner[positions] == KEEP]
        owner[free] = names.index(name)
        checker.tallies[name].quarantined += len(free)


def _check_catalogue_links(outcome: Outcome, out: Path, limit: float) -> None:
    """Count sound rows whose item or user has no sound catalogue row; they stay, unless none has one."""
    with database() as connection:
        for name in TABLES:
            view(connection, name, out / f"{name}.parquet")
        found = one_row(
            connection,
            """SELECT
                (SELECT count(*) FROM interactions WHERE item_id IN (SELECT item_id FROM items)) AS rows_item,
                (SELECT count(*) FROM interactions WHERE user_id IN (SELECT user_id FROM users)) AS rows_user,
                (SELECT count(DISTINCT item_id) FROM interactions
                    WHERE item_id NOT IN (SELECT item_id FROM items)) AS no_item,
                (SELECT count(DISTINCT user_id) FROM interactions
                    WHERE user_id NOT IN (SELECT user_id FROM users)) AS no_user,
                (SELECT count(*) FROM scenarios
                    WHERE scenario NOT IN (SELECT scenario FROM interactions)) AS silent,
                (SELECT count(*) FROM items) AS items, (SELECT count(*) FROM users) AS users""",
        )
        dominant = [_dominant(connection, entity, limit) for entity in ("user", "item")]
    total = outcome.facts["clean_rows"]
    outcome.judge(
        {
            "share_of_rows_with_item": share(found["rows_item"], total) if found["items"] else None,
            "share_of_rows_with_user": share(found["rows_user"], total) if found["users"] else None,
            "items_without_catalogue_row": found["no_item"],
            "users_without_catalogue_row": found["no_user"],
            "scenarios_without_rows": found["silent"],
            "dominant_id": "; ".join(filter(None, dominant)),
        }
    )


def _dominant(connection: Any, entity: str, limit: float) -> str:
    """The user or item that made an absurd share of the rows; empty where none did, or there are few of them."""
    found = one_row(
        connection,
        f"""SELECT max(n) / sum(n) AS share, arg_max(id, n) AS id, max(n) AS rows, count(*) AS ids
        FROM (SELECT {entity}_id AS id, count(*) AS n FROM interactions GROUP BY {entity}_id)""",
    )
    if found["ids"] < FEW_IDS or found["share"] <= limit:
        return ""
    return f"{entity} {found['id']!r} made {found['rows']:,} rows, {found['share']:.1%} of all"


def _check_withdrawn(
    outcomes: Mapping[str, Outcome], out: Path, previous: Path | None, replaced: Path | None
) -> dict[str, int]:
    """How many users and items of the window before the new snapshots lack."""
    kinds, found = catalogues.Catalogues.read(out), {}
    for table in ("items", "users"):
        if getattr(kinds, table) != "snapshot":
            continue
        outcome, files = outcomes[table], (out / f"{table}.parquet", out / f"quarantine_{table}.parquet")
        with database() as connection:
            facts = withdrawals.compare(connection, table, previous, *files)
            earlier_run = withdrawals.compare(connection, table, None if previous else replaced, *files)
        Outcome(outcome.suite, outcome.file).judge(earlier_run)
        outcome.judge(facts)
        told = facts or earlier_run
        if told.get("withdrawn") or told.get("came"):
            LOG.info("%s: %s withdrawn, %s new", table, f"{told['withdrawn']:,}", f"{told['came']:,}")
        if facts:
            found[f"withdrawn_{table}"] = int(facts["withdrawn"])
    return found


def _check_history(
    outcome: Outcome,
    out: Path,
    settings: Settings,
    window: Window,
    results: Sequence[GateResults],
    previous: Path | None,
) -> None:
    """Describe the window for later ones, and compare it with earlier ones."""
    if not outcome.facts["clean_rows"]:
        return
    with database() as connection:
        for name in TABLES:
            view(connection, name, out / f"{name}.parquet")
        for name in ("items", "users"):
            withdrawals.view_of_known(connection, name, out, previous)
        now, past = history.describe(connection, settings, window), history.earlier(results, settings)
        new = history.new_scenarios(now, past, settings)
        known = [name for name in now.scenarios if name not in new]
        like = history.describe(connection, settings, window, known) if new else now
    outcome.facts["window"] = now
    outcome.judge({**history.judge(like, past, settings), "new_scenarios": ", ".join(new)})


def _id_types(files: dict[str, pq.ParquetFile]) -> IdTypes:
    schema = files["interactions"].schema_arrow
    return IdTypes(frames.id_type(schema, "user_id"), frames.id_type(schema, "item_id"))


def _others(schema: pa.Schema, own: pa.Schema) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in schema if field.name not in (*own.names, ROW_NUMBER)}


def _texts(schema: pa.Schema, key: str) -> list[str]:
    return [field.name for field in schema if frames.is_text(field.type) and field.name != key]


def _present(schema: pa.Schema, names: list[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name in schema.names and frames.is_number(schema.field(name).type)]


def _declared_problems(schema: pa.Schema, columns: list[str], dense: list[str]) -> list[str]:
    wanted = dict.fromkeys([*columns, *dense])
    missing = [f"column {name!r} is declared but missing" for name in wanted if name not in schema.names]
    return missing + [
        f"column {name!r} is declared dense but holds {schema.field(name).type}"
        for name in dense
        if name in schema.names and not frames.is_number(schema.field(name).type)
    ]


def _unknown_scenarios(column: pa.ChunkedArray, known: list[str]) -> list[str]:
    names = set(known)
    return ["" if not row else ", ".join(str(n) for n in row if n not in names) for row in column.to_pylist()]


def _rows_with_text(chunk: pa.Table, columns: list[str]) -> int:
    texts = frames.blank_to_null(chunk, columns).select(columns)
    return int(np.any([~np.asarray(column.is_null()) for column in texts.columns], axis=0).sum()) if columns else 0


def _repeated(values: list[Any]) -> str:
    return ", ".join(sorted({str(value) for value in values if value is not None and values.count(value) > 1}))
