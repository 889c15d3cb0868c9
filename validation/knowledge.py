"""The gate behind the knowledge stage: vectors, indexes and texts. Any fault stops the run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from core import Clock, Settings
from core.contracts.kinds import KINDS, KnowledgeKind, kinds_named
from core.contracts.knowledge_versions import KnowledgeVersions
from core.duck import name_of
from core.matrix import Rows
from core.segments import segments, table_path
from core.tables import knowledge_schema, knowledge_text_schema
from validation import frames, identity
from validation.database import database, one_row, view
from validation.docs import write_data_docs
from validation.engine import Checker
from validation.files import need_kind, read_digests, read_matrix, shared_files, shared_segments
from validation.report import Outcome
from validation.suites import knowledge as suites

_VECTOR_ROWS = 65_536


def validate_knowledge(
    folder: Path,
    settings: Settings,
    clock: Clock,
    active: Path | None,
    previous: Path | None = None,
    docs: Path | None = None,
    run_id: str = "",
    *,
    texts: bool = True,
    judged: Path | None = None,
) -> dict[str, Any]:
    """Judge a knowledge artifact.

    Args:
        folder: holds KIND/index/ and KIND/vectors/ for item_text, scenario and user_*, versions.json, user_text/
            and scenario_text.parquet.
        settings: section `knowledge` gives dimensions and lags, `validation` the limits.
        clock: knowledge readable later than its now plus the kind's lag is from the future.
        active: the window's interactions, whose users count for the coverage; None: not judged.
        previous: the knowledge artifact before this one; what was known then must be the same now.
        docs: where Data Docs go; None: none are written.
        run_id: the run that they name.
        texts: whether any item has a text; without one there are no item vectors.
        judged: the artifact before, where it passed under the same rules: segments that it shares are not read again, and
            what is asked of many vectors is asked of the new ones.

    Returns:
        What was found, JSON-able, the same for the same data.

    Raises:
        GateError: names file, rule, row and value.
        MissingArtifactError: a kind that the settings ask for, or a text, is missing.
    """
    users = kinds_named(settings.knowledge.user_vectors)
    wanted = [kind.view for kind in (*(kind for kind in KINDS if kind.entity != "user"), *users)]
    extra = sorted({path.parent.name for path in folder.glob("*/index*")})
    versions = KnowledgeVersions.read(folder).by_kind
    outcomes = [
        _vectors(folder, name, settings, clock, active, versions, (previous, judged), texts)
        for name in dict.fromkeys([*wanted, *extra])
    ]
    outcomes += [_texts(folder, name, settings, clock, judged) for name in ("user", "scenario")]
    if docs is not None:
        write_data_docs(outcomes, docs, clock, run_id)
    return {"verdict": "passed", "tables": {outcome.suite.table: outcome.as_json() for outcome in outcomes}}


def _vectors(
    folder: Path,
    name: str,
    settings: Settings,
    clock: Clock,
    active: Path | None,
    versions: Mapping[str, str],
    before: tuple[Path | None, Path | None],
    texts: bool,
) -> Outcome:
    folder, (previous, judged) = folder / name, (part and part / name for part in before)
    declared = need_kind(name, folder)
    kind, key = declared.name, declared.key
    entries = table_path(folder, "index")
    index = frames.open_segments(entries)
    rows = frames.row_count(index)
    matrix, problem = read_matrix(folder / "vectors.npy")
    digests, unbound = read_digests(folder / "digests.npy", rows)
    of_users, of_items = declared.entity == "user", declared.entity == "item"
    limits, needed = settings.validation, not of_users and (texts or not of_items)
    suite = suites.vector_suite(name, key, _latest(settings, clock, kind), len(matrix), needed, limits)
    outcome = Outcome(suite, entries)
    schema = index[0].schema_arrow
    expected = knowledge_schema(key, frames.id_type(schema, key) if key != "scenario" else pa.string())
    outcome.judge(
        {
            "schema_problems": "; ".join(frames.type_problems(schema, expected)),
            "matrix_problems": problem,
            "dimension_problems": _dimension(declared, matrix, settings),
            "rows": rows,
            "digest_problems": unbound,
        }
    )
    if of_users and not declared.prompted and active is not None:
        outcome.judge({"due_without_vector": _due_without(folder, active, settings)})
    if not rows:
        outcome.judge({"coverage": _coverage(None, active) if of_users else None})
        return outcome
    shared = shared_segments(folder, judged)
    first = frames.row_count(index[:shared])
    spread = _check_vectors(outcome, (index[shared:], first), matrix, key, settings, digests)
    outcome.stop_on_rows()
    found = _index_facts(entries, key, first)
    coverage = _coverage(entries, active) if of_users else None
    if key == "scenario" and found["entities"] < 2:
        spread = dict.fromkeys(spread)  # One scenario is standardised to zeros, however many moments it has.
    outcome.judge(
        {
            "versions": len(found["versions"]),
            "version_problems": _version_problems(name, kind, found["versions"], versions),
            "kind_problems": ", ".join(sorted(set(found["kinds"]) - {name, kind})),
            "repeated_keys": found["repeated_keys"],
            **spread,
            "coverage": coverage,
        }
    )
    if previous is not None:
        outcome.judge(identity.against(folder, previous, key, active if of_users else None, limits, first))
    return outcome


def _check_vectors(
    outcome: Outcome,
    entries: tuple[Sequence[pq.ParquetFile], int],
    matrix: Rows,
    key: str,
    settings: Settings,
    digests: Rows,
) -> dict[str, Any]:
    """Run the row rules over the index from some entry on, with each row's vector beside it."""
    index, first = entries
    checker = Checker(outcome.suite.table, outcome.suite.of("row"))
    columns = [column for rule in outcome.suite.of("row") for column in rule.columns]
    typical, alike = _typical_norm(matrix), identity.Sameness()
    low = np.full(matrix.shape[1], np.inf, np.float32)
    high, zero, count = -low, 0, 0
    rows = min(settings.data.batch_rows, _VECTOR_ROWS)
    for place, chunk in frames.shown(index, rows, f"validating {outcome.suite.table}"):
        offset = first + place
        frame = frames.to_frame(frames.blank_to_null(chunk, (key,)), columns)
        at = chunk.column("row").to_numpy(zero_copy_only=False)
        inside = np.flatnonzero(~np.isnan(at.astype(float)) & (at >= 0) & (at < len(matrix)))
        vectors = np.asarray(matrix[at[inside].astype(np.int64)])  # [r, dim]
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
        frame["not_finite"] = pd.Series((~np.isfinite(vectors)).sum(axis=1), index=inside).reindex(frame.index)
        frame["norm"] = pd.Series(np.where(np.isfinite(norms), norms, np.nan), index=inside).reindex(frame.index)
        frame["relative_norm"] = frame["norm"] / typical if typical else frame["norm"]
        owners = chunk.take(pa.array(inside)).select([key, "version", "prompt_sha256"])
        strange = identity.strangers(owners, key, vectors, digests[offset + inside])
        frame["stranger"] = pd.Series(strange, index=inside).reindex(frame.index)
        alike.add(vectors, owners.column("prompt_sha256").to_pylist())
        checker.check(frame, offset)
        if len(inside):
            low, high = np.minimum(low, vectors.min(axis=0)), np.maximum(high, vectors.max(axis=0))
        zero, count = zero + int((norms == 0).sum()), count + len(inside)
    outcome.add(checker)
    several, least = alike.prompts > 1, settings.validation.min_vectors
    return {
        "vectors_differ": float(np.any(low < high)) if several else None,
        "share_of_zero_vectors": zero / count if several and (not first or count >= least) else None,
        "share_of_commonest_vector": alike.share_of_vector(least),
        "share_of_commonest_prompt": alike.share_of_prompt(least),
    }


def _typical_norm(matrix: Rows) -> float:
    """The median norm of a sample of the vectors."""
    sample = np.asarray(matrix[:: max(len(matrix) // 4096, 1)], dtype=np.float64)
    norms = np.linalg.norm(sample, axis=1)
    norms = norms[np.isfinite(norms)]
    return float(np.median(norms)) if len(norms) else 0.0


def _texts(folder: Path, name: str, settings: Settings, clock: Clock, judged: Path | None) -> Outcome:
    key = "user_id" if name == "user" else "scenario"
    texts = table_path(folder, f"{name}_text")
    table = frames.open_segments(texts)
    kinds = settings.knowledge.user_vectors if name == "user" else [name]
    latest = max((_latest(settings, clock, kind) for kind in kinds), default=clock.now())
    outcome = Outcome(suites.text_suite(f"{name}_text", key, latest), texts)
    schema = table[0].schema_arrow
    expected = knowledge_text_schema(key, frames.id_type(schema, key) if name == "user" else pa.string())
    outcome.judge({"schema_problems": "; ".join(frames.type_problems(schema, expected))})
    checker = Checker(outcome.suite.table, outcome.suite.of("row"))
    columns = [column for rule in outcome.suite.of("row") for column in rule.columns]
    shared = shared_files(texts, judged and table_path(judged, f"{name}_text"))
    first = frames.row_count(table[:shared])
    for place, chunk in frames.shown(table[shared:], settings.data.batch_rows, f"validating {outcome.suite.table}"):
        offset = first + place
        frame = frames.to_frame(frames.blank_to_null(chunk, (key, "text")), columns)
        frame["text_fault"] = [
            suites.text_fault(text) if source == "generated" else ""
            for text, source in zip(*(chunk.column(c).to_pylist() for c in ("text", "text_source")), strict=True)
        ]
        checker.check(frame, offset)
    outcome.add(checker)
    outcome.stop_on_rows()
    outcome.judge({"repeated_keys": _repeated_keys(texts, key)})
    return outcome


def _latest(settings: Settings, clock: Clock, kind: str) -> dt.datetime:
    # A backfill dates a row watermark + lag, which lies after now for the newest ones: they are readable later.
    return clock.now() + settings.knowledge.lag.get(kind, dt.timedelta(0))


def _dimension(kind: KnowledgeKind, matrix: Rows, settings: Settings) -> str:
    # Scenario vectors are standardised only: they keep whatever width the reasoner has.
    knowledge = settings.knowledge
    wanted = {"item": knowledge.item_dim, "scenario": None, "user": knowledge.user_dim}[kind.entity]
    dim = matrix.shape[1]
    if not len(matrix) or (wanted is None and dim > 0) or dim == wanted:
        return ""
    return f"vectors have {dim} numbers, {wanted or 'at least one'} wanted"


def _index_facts(table: Path, key: str, first: int) -> dict[str, Any]:
    with database() as connection:
        view(connection, "entries", *segments(table))
        found = one_row(
            connection,
            f"""SELECT list(DISTINCT version) AS versions, list(DISTINCT kind) AS kinds,
                count(DISTINCT {name_of(key)}) AS entities FROM entries""",
        )
    return {**found, "repeated_keys": _repeated_keys(table, key, first)}


def _coverage(index: Path | None, active: Path | None) -> float | None:
    """Share of the active users that have a vector; None where nobody was active."""
    if active is None:
        return None
    with database() as connection:
        view(connection, "active", active)
        known = "false"
        if index is not None:
            view(connection, "entries", *segments(index))
            known = "user_id IN (SELECT user_id FROM entries)"
        found = one_row(connection, f"SELECT avg(({known})::INT) AS s FROM (SELECT DISTINCT user_id FROM active)")["s"]
    return None if found is None else float(found)


def _due_without(folder: Path, active: Path, settings: Settings) -> float | None:
    """Share of the users without a vector among those who came due within the window, whatever was before it: with as
    many rows about items that have one as the first threshold asks for. None where they are few.
    """
    with database() as connection:
        view(connection, "active", active)
        view(connection, "entries", *segments(table_path(folder, "index")))
        view(connection, "items", *segments(table_path(folder.parent / "item_text", "index")))
        found = one_row(
            connection,
            """SELECT count(*) AS users, avg((user_id NOT IN (SELECT user_id FROM entries))::INT) AS without FROM (
                SELECT user_id FROM active WHERE item_id IN (SELECT item_id FROM items)
                GROUP BY user_id HAVING count(*) >= ?)""",
            [min(settings.knowledge.thresholds, default=1)],
        )
    return float(found["without"]) if found["users"] >= settings.validation.min_vectors else None


def _repeated_keys(table: Path, key: str, first: int = 0) -> int:
    """How many keys come twice, among the ids of the rows from `first` on."""
    of = f"WHERE {name_of(key)} IN (SELECT {name_of(key)} FROM entries WHERE row >= {first})" if first else ""
    with database() as connection:
        view(connection, "entries", *segments(table))
        return int(
            one_row(
                connection,
                f"""SELECT count(*) AS n FROM (SELECT 1 FROM entries {of}
                GROUP BY {name_of(key)}, event_timestamp, created_timestamp HAVING count(*) > 1)""",
            )["n"]
        )


def _version_problems(name: str, kind: str, found: list[str], listed: Mapping[str, str]) -> str:
    wanted = listed.get(kind, listed.get(name))
    if wanted is None:
        return f"versions.json does not list {kind}"
    return "" if found == [wanted] else f"the index has {', '.join(sorted(found))}, versions.json lists {wanted}"
