"""What a request asks for, read and checked: scenario, ids and filters. What cannot be right is a 400 that says why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from bentoml.exceptions import InvalidArgument

from bento.logs import short
from bento.scorer import Filters
from core.ids import read_id
from core.words import did_you_mean

if TYPE_CHECKING:
    from bento.live import LiveModel
    from bento.schemas import RankRequest

# Of one id in a request.
MOST_BITS, LONGEST_ID = 256, 1_000


@dataclass(frozen=True)
class Wanted:
    """One ranking that was asked for.

    Attributes:
        request: as it came.
        user_id: in the type that the log had.
        candidates: likewise; None: the items of the scenario.
        filters: what is left out, without what the user has seen.
    """

    request: RankRequest
    user_id: int | str
    candidates: list[int | str] | None
    filters: Filters


def read_request(request: RankRequest, live: LiveModel, nulls: Sequence[str], where: str = "") -> Wanted:
    """Read one ranking that was asked for.

    Args:
        request: as it came.
        live: the model that will answer.
        nulls: words that stand for nothing, see `data.nulls`.
        where: of the request, in words, for messages.

    Raises:
        InvalidArgument: it cannot be right.
    """
    check_scenario(live, request.scenario, where)
    user_id = one_id(f"{where}user_id", request.user_id, id_type("user_id", live), nulls)
    candidates = request.candidates
    wanted = None if candidates is None else item_ids(f"{where}candidates", candidates, live, nulls)
    if not (request.exclude or request.only):
        return Wanted(request, user_id, wanted, Filters())
    only = request.only or {}
    for column in only:
        if column not in live.catalogue.columns or column == "item_id":
            known = sorted(live.catalogue.columns.keys() - {"item_id"})
            hint = did_you_mean(column, known)
            raise InvalidArgument(
                f"{where}only: the catalogue has no column {short(column)!r}{hint}; it has {', '.join(known)}"
            )
    exclude = item_ids(f"{where}exclude", request.exclude or (), live, nulls)
    return Wanted(request, user_id, wanted, Filters(exclude, only))


def check_scenario(live: LiveModel, scenario: str, where: str = "") -> None:
    """Refuse a scenario that the model or the catalogue does not have.

    Raises:
        InvalidArgument: it is unknown.
    """
    if scenario not in live.catalogue.members or scenario not in live.bundle.spec.scenarios:
        known = ", ".join(s["scenario"] for s in live.scenarios)
        hint = did_you_mean(scenario, live.catalogue.members)
        raise InvalidArgument(f"{where}unknown scenario {short(scenario)!r}{hint}; known: {known}")


def id_type(name: Literal["user_id", "item_id"], live: LiveModel) -> pa.DataType:
    """What ids are: int64, or string."""
    return pa.string() if live.bundle.spec.has_text_ids(name) else pa.int64()


def one_id(name: str, value: Any, kind: pa.DataType, nulls: Sequence[str]) -> int | str:
    """An id in the type that the log had: `"42"`, 42 and 42.0 are one user where ids are integers.

    Raises:
        InvalidArgument: it is none.
    """
    try:
        return read_id(_bounded(value), kind, nulls)
    except ValueError as error:
        raise InvalidArgument(f"{name}: {error}") from error


def item_ids(name: str, values: Iterable[Any], live: LiveModel, nulls: Sequence[str]) -> list[int | str]:
    """Items' ids; a text that cannot be one is not in the catalogue either, and comes back as unknown.

    Raises:
        InvalidArgument: one is neither a number nor a text, or too long.
    """
    kind, known = id_type("item_id", live), live.catalogue.rows
    spelled = int if pa.types.is_integer(kind) else str
    return [
        # What the catalogue has is spelled as it should be.
        value if type(value) is spelled and value in known else _item_id(f"{name}[{place}]", value, kind, nulls)
        for place, value in enumerate(values)
    ]


def _item_id(name: str, value: Any, kind: pa.DataType, nulls: Sequence[str]) -> int | str:
    try:
        bounded = _bounded(value)
    except ValueError as error:
        raise InvalidArgument(f"{name}: {error}") from error
    try:
        return read_id(bounded, kind, nulls)
    except ValueError as error:
        if not isinstance(value, str):
            raise InvalidArgument(f"{name}: {error}") from error
        return value


def _bounded(value: Any) -> Any:
    """An id that is not so long that reading many of them holds up everybody.

    Raises:
        ValueError: it is.
    """
    if type(value) is int and value.bit_length() > MOST_BITS:
        raise ValueError(f"a number of some {value.bit_length() * 3 // 10:,} digits is no id")
    if isinstance(value, str) and len(value) > LONGEST_ID:
        raise ValueError(f"{short(value)!r} is no id: at most {LONGEST_ID:,} letters are read")
    return value
