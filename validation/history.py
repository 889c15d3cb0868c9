"""What a window of the log looks like, and whether it still looks like the windows before it.

The description of a window goes into `results.json`; later windows get those of the newest earlier ones as plain
dictionaries. Limits are as wide as the windows themselves vary, so that a quiet Sunday is no fault.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from core import Settings, Window
from core.tables import GRADE
from validation.database import one_row

KEY = "window"
# The sketch: so many of the smallest row hashes stand for all rows.
SKETCH = 256
MANY_VALUES = 200
_HASH = "md5_number_lower(concat_ws('|', user_id, item_id, scenario, label))"


def describe(connection: Any, settings: Settings, window: Window) -> dict[str, Any]:
    """Describe the sound tables of one window.

    Args:
        connection: knows them as interactions, users and items.
        settings: which columns are declared.
        window: the stretch of event time they were read for; its bounds count as events for gaps.

    Returns:
        JSON-able; times in microseconds.
    """
    start, end = window.bounds_micros()
    about = one_row(
        connection,
        """SELECT count(*) AS rows, count(DISTINCT user_id) AS users, count(DISTINCT item_id) AS items,
            min(epoch_us(event_timestamp)) AS oldest, max(epoch_us(event_timestamp)) AS newest FROM interactions""",
    )
    busiest = one_row(
        connection,
        "SELECT max(n) / sum(n) AS share FROM (SELECT count(*) AS n FROM interactions GROUP BY user_id)",
    )
    gap = one_row(
        connection,
        f"""SELECT max(t - before) AS gap FROM (SELECT t, lag(t) OVER (ORDER BY t) AS before FROM (
            SELECT DISTINCT epoch_us(event_timestamp) AS t FROM interactions
            UNION SELECT unnest([{start or "NULL"}, {end or "NULL"}]::BIGINT[])) WHERE t IS NOT NULL)""",
    )
    scenarios = connection.execute(
        "SELECT scenario, count(*), sum(label)::BIGINT FROM interactions GROUP BY scenario ORDER BY scenario"
    ).fetchall()
    sketch = connection.execute(f"SELECT DISTINCT {_HASH} AS h FROM interactions ORDER BY h LIMIT {SKETCH}").fetchall()
    data = settings.data
    return {
        **about,
        "busiest_user": busiest["share"],
        "largest_gap": gap["gap"],
        "bounded": start is not None and end is not None,
        "length": end - start if start is not None and end is not None else None,
        "scenarios": {name: {"rows": rows, "positives": positives} for name, rows, positives in scenarios},
        "linked": _linked(connection),
        "sketch": [str(value) for (value,) in sketch],
        "columns": {
            "users": _columns(connection, "users", data.user_categorical, data.user_dense),
            "items": _columns(connection, "items", data.item_categorical, data.item_dense),
            "interactions": _columns(connection, "interactions", [], ["weight", GRADE]),
        },
    }


def earlier(results: Iterable[Mapping[str, Any]], settings: Settings) -> list[dict[str, Any]]:
    """The descriptions in earlier windows' results.json, the newest `validation.history_windows` of them, in order.

    Results that hold none (an unbounded window's, or a window without rows) do not count.
    """
    found = [result["tables"]["interactions"]["facts"].get(KEY) for result in results]
    return [body for body in found if body and body["bounded"] and body["rows"]][-settings.validation.history_windows :]


def judge(now: Mapping[str, Any], past: Sequence[Mapping[str, Any]], settings: Settings) -> dict[str, str]:
    """Compare a window with those before it.

    Returns:
        Fact name to what is wrong, an empty text if nothing is; no facts while too few windows are known.
    """
    if not now["bounded"] or not past:
        return {}
    found = {"watermark_problems": _watermark(now, past)}
    least = settings.validation.min_history_rows
    past = [body for body in past if body["rows"] >= least and _as_long(body, now)]
    if len(past) < settings.validation.min_history_windows:
        return found
    found |= {
        "volume_problems": _volume(now, past, settings),
        "gap_problems": _gap(now, past, settings),
        "scenario_problems": _scenarios(now, past, settings),
        "link_problems": _links(now, past, settings),
        "resent_problems": _resent(now, past),
        "busiest_user_problems": _busiest(now, past),
    }
    return found | {f"{table}_drift_problems": _drifted(now, past, table, settings) for table in now["columns"]}


def _as_long(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two windows are about as long; one that catches up on several days is like none of one day."""
    lengths = sorted(body["length"] for body in (one, other) if body.get("length"))
    return len(lengths) < 2 or lengths[1] <= 1.5 * lengths[0]


def _watermark(now: Mapping[str, Any], past: Sequence[Mapping[str, Any]]) -> str:
    newest = max(body["newest"] for body in past)
    if now["newest"] > newest:
        return ""
    behind = (newest - now["newest"]) / 1e6
    return f"the newest row is {behind:,.0f} s older than the newest row of an earlier window"


def _volume(now: Mapping[str, Any], past: Sequence[Mapping[str, Any]], settings: Settings) -> str:
    low, high = settings.validation.volume_band
    found = []
    for name in ("rows", "users", "items"):
        least, most = (pick(body[name] for body in past) for pick in (min, max))
        # A count of n varies by about sqrt(n) by itself.
        if not low * least - 3 * math.sqrt(least) <= now[name] <= high * most + 3 * math.sqrt(most):
            found.append(f"{now[name]:,} {name}, {least:,} to {most:,} in the last {len(past)} windows")
    return "; ".join(found)


def _gap(now: Mapping[str, Any], past: Sequence[Mapping[str, Any]], settings: Settings) -> str:
    longest = max(body["largest_gap"] for body in past)
    if now["largest_gap"] <= settings.validation.max_gap_ratio * longest:
        return ""
    return f"no row for {now['largest_gap'] / 1e6:,.0f} s, at most {longest / 1e6:,.0f} s in the last windows"


def _scenarios(now: Mapping[str, Any], past: Sequence[Mapping[str, Any]], settings: Settings) -> str:
    found = []
    for name in sorted({name for body in past for name in body["scenarios"]} | set(now["scenarios"])):
        before = [body["scenarios"].get(name, {"rows": 0, "positives": 0}) for body in past]
        here = now["scenarios"].get(name, {"rows": 0, "positives": 0})
        shares = [(b["rows"], body["rows"]) for b, body in zip(before, past, strict=True)]
        rates = [(b["positives"], b["rows"]) for b in before if b["rows"]]
        found += _unusual(f"{name}: share of rows", (here["rows"], now["rows"]), shares, settings)
        if here["rows"] and len(rates) >= settings.validation.min_history_windows:
            found += _unusual(f"{name}: share of positives", (here["positives"], here["rows"]), rates, settings)
    return "; ".join(found)


def _unusual(what: str, here: tuple[int, int], before: Sequence[tuple[int, int]], settings: Settings) -> list[str]:
    """Whether a share lies further from its own mean than its spread and the number of rows explain."""
    mean = sum(part for part, _ in before) / sum(whole for _, whole in before)
    spread = statistics.pstdev(part / whole for part, whole in before)
    sigma = math.hypot(spread, math.sqrt(max(mean * (1 - mean), 1e-4) / here[1]))
    share = here[0] / here[1]
    if abs(share - mean) <= max(settings.validation.rate_sigmas * sigma, 0.01):
        return []
    return [f"{what} is {share:.3f}, {mean:.3f} in the last {len(before)} windows"]


def _links(now: Mapping[str, Any], past: Sequence[Mapping[str, Any]], settings: Settings) -> str:
    found = []
    for name, here in now["linked"].items():
        before = [body["linked"].get(name) for body in past]
        known = [value for value in before if value is not None]
        if here is not None and known and here < min(known) - settings.validation.max_link_drop:
            found.append(f"{here:.1%} of the rows find their {name}, at least {min(known):.1%} did before")
    return "; ".join(found)


def _resent(now: Mapping[str, Any], past: Sequence[Mapping[str, Any]]) -> str:
    usual = max((_overlap(a, b) for a, b in zip(past, past[1:], strict=False)), default=0.0)
    for body in past:
        share = _overlap(now, body)
        if share > usual + 0.15:
            return (
                f"about {share:.0%} of the rows are rows of an earlier window with other times ({usual:.0%} is usual)"
            )
    return ""


def _overlap(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """About which share of `one`'s rows `other` holds too, from their smallest hashes."""
    known = [int(value) for value in other["sketch"]]
    limit = max(known, default=0) if len(known) == SKETCH else math.inf
    mine = [value for value in map(int, one["sketch"]) if value <= limit]
    return len(set(mine) & set(known)) / len(mine) if mine else 0.0


def _busiest(now: Mapping[str, Any], past: Sequence[Mapping[str, Any]]) -> str:
    most = max(body["busiest_user"] for body in past)
    if now["busiest_user"] <= max(3 * most, most + 5 / now["rows"], 0.01):
        return ""
    return f"one user made {now['busiest_user']:.1%} of all rows, at most {most:.1%} in the last windows"


def _drifted(now: Mapping[str, Any], past: Sequence[Mapping[str, Any]], table: str, settings: Settings) -> str:
    found, limit = [], settings.validation.max_unusual_share
    for name, here in now["columns"][table].items():
        before = [body["columns"][table][name] for body in past if name in body["columns"].get(table, {})]
        if not before or here["rows"] == 0:
            continue
        nulls = max(body["nulls"] / max(body["rows"], 1) for body in before)
        # Pushed rows have no grade, and how many rows come by push is no property of the source.
        if (table, name) != ("interactions", GRADE) and here["nulls"] / here["rows"] > nulls + limit:
            found.append(f"{name} is empty in {here['nulls'] / here['rows']:.1%} of the rows ({nulls:.1%} before)")
        if "quantiles" in here:
            found += _moved(name, here, before, limit)
        known = {value for body in before for value in body.get("values") or ()}
        if known and here.get("values"):
            fresh = sum(count for value, count in here["values"].items() if value not in known)
            if fresh / here["rows"] > limit:
                found.append(f"{name} has values never seen before in {fresh / here['rows']:.1%} of the rows")
    return "; ".join(found)


def _moved(name: str, here: Mapping[str, Any], before: Sequence[Mapping[str, Any]], limit: float) -> list[str]:
    """Whether quantiles of a number left the range its values had, widened by that range."""
    known = [body["quantiles"] for body in before if body["quantiles"] and body["quantiles"][0] is not None]
    if not known or not here["quantiles"] or here["quantiles"][0] is None:
        return []
    low, high = min(q[0] for q in known), max(q[-1] for q in known)
    width = max(high - low, 0.1 * max(abs(low), abs(high)), 1e-9)
    found = []
    for position, value in zip(QUANTILES, here["quantiles"], strict=True):
        # The extremes are single rows: only what a share of the rows does is a fault of the table.
        if limit <= position <= 1 - limit and not low - width <= value <= high + width:
            found.append(f"{name}: quantile {position:g} is {value:g}, values were {low:g} to {high:g} before")
    return found[:1]


QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


def _linked(connection: Any) -> dict[str, float | None]:
    """Share of rows whose user or item has a catalogue row; None without a catalogue."""
    found = one_row(
        connection,
        """SELECT avg((user_id IN (SELECT user_id FROM users))::INT) AS user,
            avg((item_id IN (SELECT item_id FROM items))::INT) AS item,
            (SELECT count(*) FROM users) AS users, (SELECT count(*) FROM items) AS items FROM interactions""",
    )
    return {"user": found["user"] if found["users"] else None, "item": found["item"] if found["items"] else None}


def _columns(connection: Any, table: str, categorical: Sequence[str], dense: Sequence[str]) -> dict[str, Any]:
    present = {row[0] for row in connection.execute(f"DESCRIBE {table}").fetchall()}
    found: dict[str, Any] = {}
    for name in dict.fromkeys([*categorical, *dense]):
        if name not in present:
            continue
        # NaN counts as empty: it would sort above all numbers, and no comparison with it holds.
        value = f"""nullif("{name}"::DOUBLE, 'nan'::DOUBLE)""" if name in dense else f'"{name}"'
        body = one_row(connection, f"SELECT count(*) AS rows, count(*) - count({value}) AS nulls FROM {table}")
        if name in dense:
            query = f"SELECT quantile_disc({value}, {list(QUANTILES)}) FROM {table}"
            body["quantiles"] = connection.execute(query).fetchone()[0]
        else:
            query = f"""SELECT "{name}"::VARCHAR AS v, count(*) FROM {table} WHERE "{name}" IS NOT NULL
                GROUP BY v ORDER BY v LIMIT {MANY_VALUES + 1}"""
            values = connection.execute(query).fetchall()
            body["values"] = dict(values) if len(values) <= MANY_VALUES else None
        found[name] = body
    return found
