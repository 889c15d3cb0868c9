"""Random faults: every row is sound or set aside by its rule, and a repair makes up for having come too late."""

from __future__ import annotations

import datetime as dt
import itertools
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from core import Built, Settings, Window, make_clock
from core.clock import UNDATED
from core.tables import SCENARIOS, IdTypes, interactions_schema, items_schema, users_schema
from pipeline.commands import quarantine
from pipeline.windows import artifact_store, clean_tables
from validation import validate_source

NOW = dt.datetime(2024, 6, 1, tzinfo=dt.UTC)
IDS = IdTypes(pa.int64(), pa.int64())
TABLES = {"interactions": interactions_schema(IDS), "users": users_schema(IDS), "items": items_schema(IDS)}
COLUMNS = TABLES["interactions"].names
# Rule: the column that is at fault and what stands there; in the order in which rules own a row.
FAULTS: dict[str, tuple[str, Any]] = {
    "user_id_null": ("user_id", None),
    "item_id_null": ("item_id", None),
    "scenario_null": ("scenario", None),
    "scenario_unknown": ("scenario", "mail"),
    "event_timestamp_null": ("event_timestamp", None),
    "event_timestamp_too_early": ("event_timestamp", dt.datetime(1993, 1, 1, tzinfo=dt.UTC)),
    "event_timestamp_in_future": ("event_timestamp", NOW + dt.timedelta(hours=1)),
    "label_null": ("label", None),
    "label_not_binary": ("label", 2),
    "weight_null": ("weight", None),
    "weight_not_valid": ("weight", 1e31),
    "created_timestamp_null": ("created_timestamp", None),
}
# Rule: the settings by which such rows are sound after all.
REPAIRS: dict[str, dict[str, Any]] = {
    "scenario_unknown": {"data": {"scenarios": {"mail": {"title": "Mail", "description": "What is sent."}}}},
    "event_timestamp_too_early": {"validation": {"earliest": "1992-01-01T00:00:00Z"}},
    "event_timestamp_in_future": {"validation": {"max_future": "PT2H"}},
    "weight_not_valid": {"validation": {"largest_number": 1e32}},
}
# Limits of whole tables, out of the way.
LIMITS = {
    "max_quarantined_share": 1,
    "max_wrong_times": 1,
    "min_share_linked": 0,
    "min_rows": 0,
    "one_class_rows": 10**9,
}


@dataclass(frozen=True)
class Event:
    user: int
    item: int
    scenario: str
    minute: int
    label: int
    faults: tuple[str, ...]

    @property
    def row(self) -> dict[str, Any]:
        time = NOW - dt.timedelta(minutes=self.minute + 1)
        values = [self.user, self.item, self.scenario, time, self.label, 1.0, time]
        return dict(zip(COLUMNS, values, strict=True)) | dict(FAULTS[name] for name in self.faults)

    @property
    def key(self) -> tuple[Any, ...]:
        return tuple(self.row[name] for name in COLUMNS[:4])


def in_order(names: list[str]) -> tuple[str, ...]:
    """At most one fault of a column, in the order of the rules."""
    by_column = {FAULTS[name][0]: name for name in names}
    return tuple(name for name in FAULTS if name in by_column.values())


events = st.builds(
    Event,
    user=st.integers(0, 2),
    item=st.integers(0, 2),
    scenario=st.sampled_from(["home", "search"]),
    minute=st.integers(0, 1),
    label=st.integers(0, 1),
    faults=st.just(()) | st.lists(st.sampled_from(list(FAULTS)), max_size=2).map(in_order),
)


def write(folder: Path, found: list[Event], scenarios: tuple[str, ...] = ("home", "search")) -> Path:
    folder.mkdir()
    rows = {
        "interactions": [event.row for event in found],
        "users": [{"user_id": user, "event_timestamp": UNDATED, "created_timestamp": UNDATED} for user in range(3)],
        "items": [
            {"item_id": item, "title": f"Item {item}", "event_timestamp": UNDATED, "created_timestamp": UNDATED}
            for item in range(3)
        ],
    }
    for name, schema in TABLES.items():
        lenient = pa.schema([field.with_nullable(True) for field in schema])
        pq.write_table(pa.Table.from_pylist(rows[name], schema=lenient), folder / f"{name}.parquet")
    described = [{"scenario": name, "title": name, "description": f"The {name}."} for name in scenarios]
    pq.write_table(pa.Table.from_pylist(described, schema=SCENARIOS), folder / "scenarios.parquet")
    return folder


def settings_of(root: Path, batch_rows: int = 1000, repaired: frozenset[str] = frozenset()) -> Settings:
    body: dict[str, Any] = {"root": root, "clock": {"mode": "replay", "at": NOW}}
    body |= {"data": {"batch_rows": batch_rows}, "validation": dict(LIMITS)}
    for rule in repaired:
        for section, fields in REPAIRS[rule].items():
            body[section] |= fields
    return Settings(**body)


def judge(source: Path, out: Path, settings: Settings) -> Built:
    return validate_source(source, out, settings, make_clock(settings), "run", docs=False)


def rows_of(file: Path) -> list[dict[str, Any]]:
    return pq.read_table(file).to_pylist()


def expected(found: list[Event], repaired: frozenset[str] = frozenset()) -> tuple[list[int], dict[int, str]]:
    """Which rows are sound, and the rule of each other one, by their numbers from 1; in plain Python."""
    sound: list[int] = []
    rules: dict[int, str] = {}
    seen: set[tuple[Any, ...]] = set()
    for number, event in enumerate(found, 1):
        if left := [rule for rule in event.faults if rule not in repaired]:
            rules[number] = left[0]
        elif event.key in seen:
            rules[number] = "repeated"
        else:
            sound.append(number)
            seen.add(event.key)
    return sound, rules


@given(found=st.lists(events, max_size=16), batch_rows=st.sampled_from([5, 1000]))
@examples(6, shrink=False)
def test_every_row_is_sound_or_set_aside_by_its_first_rule(
    tmp_path_factory: pytest.TempPathFactory, found: list[Event], batch_rows: int
) -> None:
    folder = tmp_path_factory.mktemp("judged")
    source = write(folder / "source", found)
    (folder / "out").mkdir()
    built = judge(source, folder / "out", settings_of(folder, batch_rows))
    rows = rows_of(source / "interactions.parquet")
    sound, rules = expected(found)
    assert rows_of(folder / "out" / "interactions.parquet") == [rows[number - 1] for number in sound]
    aside = rows_of(folder / "out" / "quarantine_interactions.parquet")
    assert {row["row_number"]: row["rule"] for row in aside} == rules
    assert [{name: row[name] for name in COLUMNS} for row in aside] == [rows[number - 1] for number in sorted(rules)]
    assert (built.rows["interactions"], built.rows["quarantined_interactions"]) == (len(sound), len(rules))
    assert len(sound) + len(rules) == len(rows)


@st.composite
def with_copies(draw: st.DrawFn) -> list[Event]:
    """Events of different keys, and copies of some of them somewhere."""
    late = st.sampled_from([(rule,) for rule in REPAIRS])
    some = events | st.builds(lambda event, faults: replace(event, faults=faults), events, late)
    found = draw(st.lists(some, min_size=6, max_size=12, unique_by=lambda event: event.key))
    for _ in range(draw(st.integers(0, 3))):
        found.insert(draw(st.integers(0, len(found))), draw(st.sampled_from(found)))
    return found


@given(found=with_copies(), repaired=st.frozensets(st.sampled_from(list(REPAIRS)), min_size=2))
@examples(4, shrink=False)
def test_what_is_repaired_and_replayed_is_as_if_it_had_been_sound_from_the_start(
    tmp_path_factory: pytest.TempPathFactory, found: list[Event], repaired: frozenset[str]
) -> None:
    folder = tmp_path_factory.mktemp("replayed")
    source = write(folder / "source", found)
    before = settings_of(folder / "root")
    artifact_store(before).build(
        "validate", Window(), inputs={}, settings={}, rooms=(), builder=lambda out: judge(source, out, before)
    )
    after = settings_of(folder / "root", repaired=repaired)
    part = quarantine.replay(after)

    scenarios = ("home", "search", *(["mail"] if "scenario_unknown" in repaired else []))
    (folder / "at_once").mkdir()
    judge(write(folder / "mended", found, scenarios), folder / "at_once", after)

    parts = [artifact_store(after).get("validate", Window()), part]
    if any(m.rows["interactions"] for m in parts):
        assert [m.path for m in clean_tables(after, Window())] == [m.path for m in parts]
    together = itertools.chain.from_iterable(rows_of(m.file("interactions.parquet")) for m in parts)
    assert counted(together) == counted(rows_of(folder / "at_once" / "interactions.parquet"))
    waiting = {row["row_number"]: row["rule"] for row in quarantine.rejected(after, "interactions", limit=100)}
    at_once = rows_of(folder / "at_once" / "quarantine_interactions.parquet")
    assert waiting == {row["row_number"]: row["rule"] for row in at_once}
    assert waiting == expected(found, repaired)[1]


def counted(rows: Any) -> Counter:
    return Counter(tuple(row.items()) for row in rows)
