"""What the data is like, and what of it will surprise: for `doctor` before anything runs, and for `run` after its ingest."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from core import Clock, Settings, Window, from_micros
from core.duck import database, name_of, quoted

# From this share of items that occur in one scenario only, scenarios that share a catalogue are most likely a mistake.
_OWN_ITEMS = 0.5
_NAMED = 20


class Remark(NamedTuple):
    """Something to mend before a run, or to know: what was seen, and what to do."""

    about: str
    seen: str
    mend: str


@dataclass(frozen=True)
class Scenario:
    """One scenario's rows, users and items in the log, items that it ranks, and share of positive rows."""

    name: str
    rows: int
    users: int
    items: int
    ranked: int
    positive: float | None


@dataclass(frozen=True)
class Profile:
    """What tables hold.

    Attributes:
        rows, users, items: of the log.
        first, last: times of the oldest and the newest row, microseconds; None where no row has one.
        positive: share of the labelled rows.
        faulty: what some rows lack -> how many rows.
        scenarios: by name, those with most rows first.
        catalogue: items of the items table, or of the log where there is none.
        untexted, repeated, placed: of those, without any text; ids that occur again; that name their scenarios.
        own_items: share of the log's items that occur in one scenario only.
    """

    rows: int
    users: int
    items: int
    first: int | None
    last: int | None
    positive: float | None
    faulty: dict[str, int]
    scenarios: list[Scenario]
    catalogue: int
    untexted: int
    repeated: int
    placed: int
    own_items: float


def profile_source(settings: Settings, scratch: Path) -> Profile:
    """Read the whole source as `ingest` does, and count.

    Args:
        settings: of the project.
        scratch: an existing folder; what is written below it is removed.

    Raises:
        UserError: the source cannot be read; the message says where and what to do.
    """
    from ingest import read_source

    with tempfile.TemporaryDirectory(prefix=".llm4msr-doctor-", dir=scratch) as folder:
        read_source(settings, Window(), Path(folder))
        return profile(settings, Path(folder))


def profile(settings: Settings, tables: Path) -> Profile:
    """Count what an ingested folder holds."""
    with database(share=0.5) as connection:
        for name in ("interactions", "items"):
            connection.execute(
                f"CREATE VIEW {name} AS SELECT * FROM read_parquet({quoted(tables / f'{name}.parquet')})"
            )
        return Profile(**_log(connection), **_catalogue(connection, settings))


def _log(connection: Any) -> dict[str, Any]:
    lacks = {
        name: f"count(*) FILTER ({name} IS NULL)"
        for name in ("user_id", "item_id", "scenario", "event_timestamp", "label")
    }
    row = connection.execute(
        "SELECT count(*), count(DISTINCT user_id), count(DISTINCT item_id), epoch_us(min(event_timestamp)), "
        f"epoch_us(max(event_timestamp)), avg(label) FILTER (label IN (0, 1)), {', '.join(lacks.values())} FROM interactions"
    ).fetchone()
    names = ("rows", "users", "items", "first", "last", "positive")
    faulty = {name: count for name, count in zip(lacks, row[len(names) :], strict=True) if count}
    own = connection.execute(
        "SELECT avg((n = 1)::INT) FROM (SELECT count(DISTINCT scenario) AS n FROM interactions GROUP BY item_id)"
    ).fetchone()[0]
    return {**dict(zip(names, row, strict=False)), "faulty": faulty, "own_items": own or 0.0}


def _catalogue(connection: Any, settings: Settings) -> dict[str, Any]:
    there = {row[0] for row in connection.execute("DESCRIBE items").fetchall()}
    texts = [name for name in settings.data.item_text if name in there]
    blank = " AND ".join(f"trim(coalesce({name_of(text)}::VARCHAR, '')) = ''" for text in texts) or "true"
    total, ids, untexted, placed = connection.execute(
        f"SELECT count(*), count(DISTINCT item_id), count(*) FILTER ({blank}), count(scenarios) FROM items"
    ).fetchone()
    members = dict(
        connection.execute(
            "SELECT unnest(scenarios) AS name, count(DISTINCT item_id) FROM items GROUP BY name"
        ).fetchall()
    )
    everywhere = total - placed
    found = connection.execute(
        "SELECT scenario, count(*), count(DISTINCT user_id), count(DISTINCT item_id), avg(label) FILTER (label IN (0, 1)) "
        "FROM interactions WHERE scenario IS NOT NULL GROUP BY scenario ORDER BY count(*) DESC, scenario"
    ).fetchall()
    scenarios = [
        Scenario(n, rows, users, items, everywhere + members.get(n, 0), rate) for n, rows, users, items, rate in found
    ]
    return {"scenarios": scenarios, "catalogue": total, "untexted": untexted, "repeated": total - ids, "placed": placed}


def lines(found: Profile) -> Iterator[tuple[str, str]]:
    """What there is, as (name, text) for people."""
    span = "no row has a time"
    if found.first is not None and found.last is not None:
        days = (found.last - found.first) / 86_400e6
        span = f"{from_micros(found.first).date()} to {from_micros(found.last).date()} ({days:,.0f} days)"
    positive = "no row has a label" if found.positive is None else f"{found.positive:.1%} positive"
    yield "log", f"{found.rows:,} rows of {found.users:,} users and {found.items:,} items, {span}, {positive}"
    for one in found.scenarios[:_NAMED]:
        rate = "no label" if one.positive is None else f"{one.positive:.1%} positive"
        counts = f"{one.rows:,} rows, {one.users:,} users, {one.items:,} items, {rate}; ranks {one.ranked:,} items"
        yield f"scenario {one.name}", counts
    if len(found.scenarios) > _NAMED:
        yield "scenarios", f"{len(found.scenarios) - _NAMED:,} more, with fewer rows"
    share = found.untexted / max(found.catalogue, 1)
    yield (
        "items",
        f"{found.catalogue:,} in the catalogue, {share:.1%} of them without text, {found.placed:,} name their scenarios",
    )


def remarks(found: Profile, settings: Settings, clock: Clock) -> Iterator[Remark]:
    """What of the data will surprise, the most pressing first."""
    yield from _labels(found, settings)
    yield from surprises(found, settings, clock)
    for column, count in found.faulty.items():
        share = count / max(found.rows, 1)
        mend = f"they go to quarantine; more than validation.max_quarantined_share ({settings.validation.max_quarantined_share:.0%}) stop a run"
        yield Remark("rows", f"{count:,} rows ({share:.1%}) have no {column}", mend)
    if found.repeated:
        seen = f"{found.repeated:,} rows of the items table repeat an item_id"
        yield Remark("items", seen, "one row an item counts, the others go to quarantine")
    if found.catalogue and found.untexted == found.catalogue:
        seen = (
            "no item has any text: no knowledge of items and users, only ids, statistics and the scenarios' sentences"
        )
        yield Remark(
            "item text", seen, "name the columns that hold titles in data.item_text, and their file in data.files.items"
        )
    elif found.untexted > _OWN_ITEMS * found.catalogue:
        seen = f"{found.untexted / found.catalogue:.0%} of the items have no text"
        yield Remark("item text", seen, "knowledge says nothing of them; name more columns in data.item_text")


def surprises(found: Profile, settings: Settings, clock: Clock) -> Iterator[Remark]:
    """What no gate stops and nobody expects: values that are all stale when they are served, and one catalogue for all."""
    yield from _stale(found.last, settings, clock)
    yield from _shared_catalogue(found)


def _labels(found: Profile, settings: Settings) -> Iterator[Remark]:
    if found.positive in (0.0, 1.0):
        if found.positive and settings.data.negatives is not None:
            return  # They are drawn, as the settings ask.
        which, other = ("positive", "negatives") if found.positive else ("negative", "positives")
        rule = settings.data.label
        seen = f"every row is {which}: nothing can be learned without {other}"
        mend = f"look at data.label (column {rule.column!r}, op {rule.op!r}, value {rule.value:g})"
        if found.positive:
            seen = f"a log of positives only ({seen})"
            mend = (
                "set data.negatives, e.g. {per_positive: 4}, which draws negatives, or log what was shown and left; if there are "
                f"rows without a click, {mend}"
            )
        yield Remark("label", seen, mend)
        return
    tested = settings.split.test * found.rows * (found.positive or 0.0)
    if tested < settings.promotion.min_positives or found.users < settings.promotion.min_users:
        seen = f"about {tested:,.0f} positives and at most {found.users:,} users to test on: too few to compare a new model with a champion"
        mend = "lower promotion.min_positives and promotion.min_users, or raise split.test; until then the first champion stays"
        yield Remark("size", seen, mend)


def _stale(last: int | None, settings: Settings, clock: Clock) -> Iterator[Remark]:
    limits = {view: ttl + _lag(settings, view) for view, ttl in settings.features.ttl.items() if ttl}
    age = clock.now() - from_micros(last) if last is not None else dt.timedelta(0)
    late = sorted(view for view, limit in limits.items() if age > limit)
    if late and last is not None:
        seen = f"the newest row is of {from_micros(last).date()}, {age.days:,} days ago: older than features.ttl of {', '.join(late)}"
        mend = (
            "all their values will be served as stale, that is as unknown; bring newer rows, raise features.ttl, or stand at "
            "the log's end with clock: {mode: replay, at: log_end}"
        )
        yield Remark("age", seen, mend)


def _lag(settings: Settings, view: str) -> dt.timedelta:
    kinds = {
        **settings.features.lag,
        **{f"user_{k}": v for k, v in settings.knowledge.lag.items()},
        **settings.knowledge.lag,
    }
    return kinds.get(view, dt.timedelta(0))


def _shared_catalogue(found: Profile) -> Iterator[Remark]:
    if len(found.scenarios) < 2 or found.placed or found.own_items < _OWN_ITEMS:
        return
    seen = (
        f"no column says which items belong to which scenario: each of {len(found.scenarios)} scenarios ranks all "
        f"{found.catalogue:,} items, though {found.own_items:.0%} of the log's items occur in one scenario only"
    )
    mend = "give the items table a column `scenarios` (names with | between), or map yours: data.columns: {scenarios: category}"
    yield Remark("catalogue", seen, mend)
