"""What a window of the log looks like, and whether it still looks like the windows before it.

The description of a window goes into `results.json`; later windows get those of the newest earlier ones. Limits are as
wide as the windows themselves vary, so that a quiet Sunday is no fault. Like is compared with like: windows of about one length, and of them the rows, users and items of scenarios that have a history.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from core import Settings, Window
from core.contracts.gates import ColumnLook, GateResults, ScenarioCount, WindowLook
from core.duck import name_of
from core.limits import ValidationSettings
from core.tables import GRADE
from validation.database import one_row

# The sketch: so many of the smallest row hashes stand for all rows.
SKETCH = 256
MANY_VALUES = 200
_HASH = "md5_number_lower(concat_ws('|', user_id, item_id, scenario, label))"


def describe(connection: Any, settings: Settings, window: Window, scenarios: Sequence[str] | None = None) -> WindowLook:
    """Describe the sound tables of one window.

    Args:
        connection: knows them as interactions, users and items, and as known_users and known_items those whom the window
            before had, too.
        settings: which columns are declared.
        window: the stretch of event time they were read for; its bounds count as events for gaps.
        scenarios: only the rows of these, and the users and items that they name; None: everything.

    Returns:
        The description, for later windows.
    """
    _choose(connection, scenarios)
    start, end = window.bounds_micros()
    about = one_row(
        connection,
        """SELECT count(*) AS rows, count(DISTINCT user_id) AS users, count(DISTINCT item_id) AS items,
            min(epoch_us(event_timestamp)) AS oldest, max(epoch_us(event_timestamp)) AS newest FROM told_interactions""",
    )
    busiest = one_row(
        connection,
        "SELECT max(n) / sum(n) AS share FROM (SELECT count(*) AS n FROM told_interactions GROUP BY user_id)",
    )
    gap = one_row(
        connection,
        f"""SELECT max(t - before) AS gap FROM (SELECT t, lag(t) OVER (ORDER BY t) AS before FROM (
            SELECT DISTINCT epoch_us(event_timestamp) AS t FROM told_interactions
            UNION SELECT unnest([{start or "NULL"}, {end or "NULL"}]::BIGINT[])) WHERE t IS NOT NULL)""",
    )
    counted = connection.execute(
        "SELECT scenario, count(*), sum(label)::BIGINT FROM told_interactions GROUP BY scenario ORDER BY scenario"
    ).fetchall()
    lowest = f"SELECT DISTINCT {_HASH} AS h FROM told_interactions ORDER BY h LIMIT {SKETCH}"
    sketch = connection.execute(lowest).fetchall()
    data = settings.data
    return WindowLook(
        **about,
        busiest_user=busiest["share"],
        largest_gap=gap["gap"],
        bounded=start is not None and end is not None,
        length=end - start if start is not None and end is not None else None,
        scenarios={name: ScenarioCount(rows=rows, positives=positives) for name, rows, positives in counted},
        linked=_linked(connection),
        sketch=tuple(str(value) for (value,) in sketch),
        columns={
            "users": _columns(connection, "users", data.user_categorical, data.user_dense),
            "items": _columns(connection, "items", data.item_categorical, data.item_dense),
            "interactions": _columns(connection, "interactions", [], ["weight", GRADE]),
        },
    )


def earlier(results: Iterable[GateResults], settings: Settings) -> list[WindowLook]:
    """The descriptions in earlier windows' results.json, the newest `validation.history_windows` of them, in order.

    Results that hold none (an unbounded window's, or a window without rows) do not count.
    """
    found = [result.tables["interactions"].facts.window for result in results]
    return [body for body in found if body and body.bounded and body.rows][-settings.validation.history_windows :]


def new_scenarios(now: WindowLook, past: Sequence[WindowLook], settings: Settings) -> list[str]:
    """The window's scenarios that have too short a history to be compared with it."""
    comparable = _comparable(now, past, settings)
    known = _established(comparable, settings) if comparable else set(now.scenarios)
    return sorted(set(now.scenarios) - known)


def judge(now: WindowLook, past: Sequence[WindowLook], settings: Settings) -> dict[str, str]:
    """Compare a window with those before it.

    Args:
        now: the description of the window, without the rows of new scenarios.
        past: those of earlier windows, in order.
        settings: the limits.

    Returns:
        Fact name to what is wrong, an empty text if nothing is; no facts while too few windows are known.
    """
    if not now.bounded or not past:
        return {}
    found = {"watermark_problems": _watermark(now, past) if now.rows else ""}
    past = _comparable(now, past, settings)
    if not past:
        return found
    if not now.rows:
        return found | {"scenario_problems": "none of the scenarios known so far has a row"}
    found |= {
        "volume_problems": _volume(now, past, settings),
        "gap_problems": _gap(now, past, settings),
        "scenario_problems": _scenarios(now, past, settings),
        "link_problems": _links(now, past, settings),
        "resent_problems": _resent(now, past, settings),
        "busiest_user_problems": _busiest(now, past, settings),
    }
    return found | {f"{table}_drift_problems": _drifted(now, past, table, settings) for table in now.columns}


def _comparable(now: WindowLook, past: Sequence[WindowLook], settings: Settings) -> list[WindowLook]:
    """Earlier windows with rows enough, about as long as this one; none where they are too few."""
    limits = settings.validation
    long, found = now.length or 0, []
    for body in past if now.bounded else ():
        length = body.length or long
        alike = max(length, long) <= limits.max_window_ratio * min(length, long)
        if alike and body.rows >= limits.min_history_rows:
            found.append(body)
    return found if len(found) >= limits.min_history_windows else []


def _established(past: Sequence[WindowLook], settings: Settings) -> set[str]:
    """Scenarios whose first rows lie so many windows back that they have a history, but for closed ones."""
    early = past[: len(past) - settings.validation.min_history_windows + 1]
    known = {name for body in early for name, counted in body.scenarios.items() if counted.rows}
    return known - set(settings.validation.closed_scenarios)


def _rows_of(body: WindowLook, names: Iterable[str]) -> int:
    return sum(body.scenarios.get(name, ScenarioCount()).rows for name in names)


def _watermark(now: WindowLook, past: Sequence[WindowLook]) -> str:
    newest = max(body.newest or 0 for body in past)
    if (now.newest or 0) > newest:
        return ""
    behind = (newest - (now.newest or 0)) / 1e6
    return f"the newest row is {behind:,.0f} s older than the newest row of an earlier window"


def _volume(now: WindowLook, past: Sequence[WindowLook], settings: Settings) -> str:
    limits, known = settings.validation, _established(past, settings)
    closed = any(_rows_of(body, limits.closed_scenarios) for body in past)
    low, high = limits.volume_band
    found = []
    for name in ("rows", "users", "items"):
        if closed and name != "rows":
            continue  # How many of them came for a closed scenario only is not known.
        before = [_rows_of(body, known) if name == "rows" else getattr(body, name) for body in past]
        least, most = min(before), max(before)
        # A count of n varies by about sqrt(n) by itself.
        noise = [limits.count_sigmas * math.sqrt(count) for count in (least, most)]
        if not low * least - noise[0] <= getattr(now, name) <= high * most + noise[1]:
            found.append(f"{getattr(now, name):,} {name}, {least:,} to {most:,} in the last {len(past)} windows")
    return "; ".join(found)


def _gap(now: WindowLook, past: Sequence[WindowLook], settings: Settings) -> str:
    longest = max(body.largest_gap or 0 for body in past)
    gap = now.largest_gap or 0
    if gap <= settings.validation.max_gap_ratio * longest:
        return ""
    return f"no row for {gap / 1e6:,.0f} s, at most {longest / 1e6:,.0f} s in the last windows"


def _scenarios(now: WindowLook, past: Sequence[WindowLook], settings: Settings) -> str:
    found, known = [], sorted(_established(past, settings))
    wholes = [_rows_of(body, known) for body in past]
    for name in known:
        before = [body.scenarios.get(name, ScenarioCount()) for body in past]
        here = now.scenarios.get(name, ScenarioCount())
        shares = [(b.rows, whole) for b, whole in zip(before, wholes, strict=True) if whole]
        rates = [(b.positives, b.rows) for b in before if b.rows]
        found += _unusual(f"{name}: share of rows", (here.rows, now.rows), shares, settings)
        if here.rows and len(rates) >= settings.validation.min_history_windows:
            found += _unusual(f"{name}: share of positives", (here.positives, here.rows), rates, settings)
    return "; ".join(found)


def _unusual(what: str, here: tuple[int, int], before: Sequence[tuple[int, int]], settings: Settings) -> list[str]:
    """Whether a share lies further from its own mean than its spread and the number of rows explain."""
    mean = sum(part for part, _ in before) / sum(whole for _, whole in before)
    spread = statistics.pstdev(part / whole for part, whole in before)
    sigma = math.hypot(spread, math.sqrt(max(mean * (1 - mean), 1e-4) / here[1]))
    share = here[0] / here[1]
    if abs(share - mean) <= max(settings.validation.rate_sigmas * sigma, settings.validation.min_rate_change):
        return []
    return [f"{what} is {share:.3f}, {mean:.3f} in the last {len(before)} windows"]


def _links(now: WindowLook, past: Sequence[WindowLook], settings: Settings) -> str:
    found = []
    for name, here in now.linked.items():
        before = [body.linked.get(name) for body in past]
        known = [value for value in before if value is not None]
        if here is not None and known and here < min(known) - settings.validation.max_link_drop:
            found.append(f"{here:.1%} of the rows find their {name}, at least {min(known):.1%} did before")
    return "; ".join(found)


def _resent(now: WindowLook, past: Sequence[WindowLook], settings: Settings) -> str:
    usual = max((_overlap(a, b) for a, b in zip(past, past[1:], strict=False)), default=0.0)
    for body in past:
        share = _overlap(now, body)
        if share > usual + settings.validation.max_resent_share:
            return (
                f"about {share:.0%} of the rows are rows of an earlier window with other times ({usual:.0%} is usual)"
            )
    return ""


def _overlap(one: WindowLook, other: WindowLook) -> float:
    """About which share of `one`'s rows `other` holds too, from their smallest hashes."""
    known = [int(value) for value in other.sketch]
    limit = max(known, default=0) if len(known) == SKETCH else math.inf
    mine = [value for value in map(int, one.sketch) if value <= limit]
    return len(set(mine) & set(known)) / len(mine) if mine else 0.0


def _busiest(now: WindowLook, past: Sequence[WindowLook], settings: Settings) -> str:
    limits, most = settings.validation, max(body.busiest_user or 0.0 for body in past)
    # In few rows some more are chance.
    usual = most * now.rows
    chance = (usual + limits.count_sigmas * (1 + math.sqrt(usual))) / now.rows
    busiest = now.busiest_user or 0.0
    if busiest <= max(limits.max_busiest_ratio * most, chance, limits.min_busiest_share):
        return ""
    return f"one user made {busiest:.1%} of all rows, at most {most:.1%} in the last windows"


def _drifted(now: WindowLook, past: Sequence[WindowLook], table: str, settings: Settings) -> str:
    found, limits = [], settings.validation
    limit = limits.max_unusual_share
    for name, here in now.columns[table].items():
        before = [body.columns[table][name] for body in past if name in body.columns.get(table, {})]
        if not before or here.rows == 0:
            continue
        nulls = max(body.nulls / max(body.rows, 1) for body in before)
        # Pushed rows have no grade, and how many rows come by push is no property of the source.
        if (table, name) != ("interactions", GRADE) and here.nulls / here.rows > nulls + limit:
            found.append(f"{name} is empty in {here.nulls / here.rows:.1%} of the rows ({nulls:.1%} before)")
        if here.quantiles:
            found += _moved(name, here, before, limits)
        known = {value for body in before for value in body.values or ()}
        if known and here.values:
            fresh = sum(count for value, count in here.values.items() if value not in known)
            if fresh / here.rows > limit:
                found.append(f"{name} has values never seen before in {fresh / here.rows:.1%} of the rows")
    return "; ".join(found)


def _moved(name: str, here: ColumnLook, before: Sequence[ColumnLook], limits: ValidationSettings) -> list[str]:
    """Whether quantiles of a number left the range its values had, widened by `max_range_growth` of it."""
    known = [body.quantiles for body in before if body.quantiles]
    if not known or not here.quantiles:
        return []
    low, high = min(q[0] for q in known), max(q[-1] for q in known)
    width = limits.max_range_growth * max(high - low, limits.min_range * max(abs(low), abs(high)))
    limit, found = limits.max_unusual_share, []
    for position, value in zip(QUANTILES, here.quantiles, strict=True):
        # The extremes are single rows: only what a share of the rows does is a fault of the table.
        if limit <= position <= 1 - limit and not low - width <= value <= high + width:
            found.append(f"{name}: quantile {position:g} is {value:g}, values were {low:g} to {high:g} before")
    return found[:1]


QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


def _choose(connection: Any, scenarios: Sequence[str] | None) -> None:
    """Views of the tables, `told_TABLE`: all of them, or what belongs to some scenarios."""
    rows, known = "true", "true"
    if scenarios is not None:
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE told AS SELECT unnest(?::VARCHAR[]) AS scenario", [[*scenarios]]
        )
        rows = "scenario IN (SELECT scenario FROM told)"
        known = "{0}_id IN (SELECT {0}_id FROM told_interactions)"
    connection.execute(f"CREATE OR REPLACE TEMP VIEW told_interactions AS SELECT * FROM interactions WHERE {rows}")
    for name in ("user", "item"):
        where = known.format(name)
        connection.execute(f"CREATE OR REPLACE TEMP VIEW told_{name}s AS SELECT * FROM {name}s WHERE {where}")


def _linked(connection: Any) -> dict[str, float | None]:
    """Share of rows whose user or item has a catalogue row; None without a catalogue."""
    found = one_row(
        connection,
        """SELECT avg((user_id IN (SELECT user_id FROM known_users))::INT) AS user,
            avg((item_id IN (SELECT item_id FROM known_items))::INT) AS item,
            (SELECT count(*) FROM users) AS users, (SELECT count(*) FROM items) AS items FROM told_interactions""",
    )
    return {"user": found["user"] if found["users"] else None, "item": found["item"] if found["items"] else None}


def _columns(connection: Any, table: str, categorical: Sequence[str], dense: Sequence[str]) -> dict[str, ColumnLook]:
    table = f"told_{table}"
    present = {row[0] for row in connection.execute(f"DESCRIBE {table}").fetchall()}
    found: dict[str, ColumnLook] = {}
    for name in dict.fromkeys([*categorical, *dense]):
        if name not in present:
            continue
        # NaN counts as empty: it would sort above all numbers, and no comparison with it holds.
        quoted = name_of(name)
        value = f"nullif({quoted}::DOUBLE, 'nan'::DOUBLE)" if name in dense else quoted
        body = one_row(connection, f"SELECT count(*) AS rows, count(*) - count({value}) AS nulls FROM {table}")
        if name in dense:
            query = f"SELECT quantile_disc({value}, {list(QUANTILES)}) FROM {table}"
            told = {"quantiles": connection.execute(query).fetchone()[0]}
        else:
            query = f"""SELECT {quoted}::VARCHAR AS v, count(*) FROM {table} WHERE {quoted} IS NOT NULL
                GROUP BY v ORDER BY v LIMIT {MANY_VALUES + 1}"""
            values = connection.execute(query).fetchall()
            told = {"values": dict(values) if len(values) <= MANY_VALUES else None}
        found[name] = ColumnLook(**body, **told)
    return found
