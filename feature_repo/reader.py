"""The online reader: one user's features, history and vectors in one read, with their age checked.

The same rows as training's point-in-time join give: a value that is older than its time to live is unknown here as
it is there (Feast checks it offline only).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from sqlalchemy.exc import SQLAlchemyError

from core import Clock, Settings
from core.contracts.kinds import KINDS, find_kind, is_of
from core.contracts.statistics import statistic_columns
from core.errors import StorageError
from feature_repo.feast_names import FeatureView, FeatureViewNotFoundException
from feature_repo.materialization import is_live, probes_of
from feature_repo.online import DAMAGED, OnlineTable, Row
from feature_repo.overlay import open_store
from feature_repo.statistics import lag_micros
from feature_repo.wire import safe

Status = Literal["found", "missing", "stale", "damaged"]
FOUND: Status = "found"
MISSING: Status = "missing"
STALE: Status = "stale"
_STATS = tuple(statistic_columns("user"))


@dataclass(frozen=True)
class UserState:
    """What is known of a user now.

    Attributes:
        user_id: in the type the log has.
        values: declared user columns, user_rows, user_positives and user_rate; None where unknown.
        history: item ids of the newest positives, newest last.
        vectors: unversioned view name, e.g. `user_pooled`, to float32 [d], or None where unknown.
        status: unversioned view name to `found`, `missing`, `stale` (known, but older than its time to live) or `damaged`
            (it cannot be read); all but the first are treated as unknown.
        published: unversioned view name to the publish time of what was found or stale, in microseconds.
    """

    user_id: Any
    values: dict[str, Any] = field(default_factory=dict)
    history: list[Any] = field(default_factory=list)
    vectors: dict[str, np.ndarray | None] = field(default_factory=dict)
    status: dict[str, Status] = field(default_factory=dict)
    published: dict[str, int] = field(default_factory=dict)

    @classmethod
    def unknown(cls, user_id: Any) -> UserState:
        """A user of whom nothing is known."""
        return cls(user_id)


class OnlineReader:
    """Reads the online store for one generation of models.

    Args:
        settings: stores, declared user columns, times to live, lags, `online.timeout_ms`.
        clock: ages are taken from its now.
        versions: vector kind (`pooled` or `user_pooled`, ...) to version, or to a mapping that holds `version`;
            other keys are ignored.
        columns: the user's own columns to read, as a bundle names them; None: those that the settings declare.

    Raises:
        StorageError: the registry cannot be read.
    """

    def __init__(
        self, settings: Settings, clock: Clock, versions: Mapping[str, Any], columns: Sequence[str] | None = None
    ) -> None:
        self.settings, self.clock = settings, clock
        self._versions = versions_by_view(versions)
        declared = [*settings.data.user_categorical, *settings.data.user_dense]
        self._declared = declared if columns is None else list(columns)
        self._limits = _limits(settings)
        self._store = open_store(settings, timeout_ms=settings.online.timeout_ms)
        self._table = OnlineTable(self._store, timeout_ms=settings.online.timeout_ms, retry=False)
        self._views: dict[str, FeatureView] = {}
        self._user_views = [
            *(["user_features"] if self._declared else []),
            "user_stats",
            "user_history",
            *(view for view in self._versions if is_of(view, "user")),
        ]
        for view in (*self._user_views, "scenario"):
            self._find(view)

    def read_user(self, user_id: Any) -> UserState:
        """A user's state; one that was never seen is all unknown.

        Raises:
            StorageError: the online store does not answer in time.
        """
        known, key = self._asked(user_id)
        found = [] if key is None else self._table.read_views([self._views[view] for view in known], key)
        return self._state(user_id if key is None else key, dict(zip(known, found, strict=False)))

    async def read_user_async(self, user_id: Any, seconds: float | None = None) -> UserState:
        """As `read_user`, while the event loop goes on.

        Args:
            user_id: whose state.
            seconds: until the whole answer is here; None, or more than that: `online.timeout_ms`.

        Raises:
            StorageError: the online store does not answer in time, connecting and waiting for other reads included.
        """
        (found,) = await self.read_users_async([user_id], seconds)
        if isinstance(found, StorageError):
            raise found
        return found

    async def read_users_async(
        self, user_ids: Sequence[Any], seconds: float | None = None
    ) -> list[UserState | StorageError]:
        """As `read_user_async`, of several users at once; for each the state, or what the store refuses it with."""
        asked = [self._asked(user_id) for user_id in user_ids]
        keys = [key for _, key in asked if key is not None]
        views = [self._views[view] for view in asked[0][0]] if asked else []
        rows = iter(await self._table.read_views_async(views, keys, self._within(seconds)))
        states: list[UserState | StorageError] = []
        for user_id, (known, key) in zip(user_ids, asked, strict=True):
            found = [] if key is None else next(rows)
            if isinstance(found, StorageError):
                states.append(found)
            else:
                states.append(self._state(user_id if key is None else key, dict(zip(known, found, strict=False))))
        return states

    def read_scenarios(self, names: Iterable[str]) -> dict[str, np.ndarray | None]:
        """Scenario to its vector, float32 [d]; None where it has none or one that is too old.

        Raises:
            StorageError: the online store does not answer in time.
        """
        names = list(names)
        view = self._find("scenario")
        if view is None:
            return dict.fromkeys(names)
        rows = self._table.read(view, names)
        return {
            name: row["vector"] if isinstance(row, dict) and self._is_fresh("scenario", row) else None
            for name, row in zip(names, rows, strict=True)
        }

    def read_text(self, kind: str, key: Any) -> tuple[str, str] | None:
        """Knowledge for people.

        Args:
            kind: `user` or `scenario`.
            key: the id.

        Returns:
            The text and its source (`generated` or `summary`), or None.

        Raises:
            StorageError: the online store does not answer in time.
        """
        views, key = self._text_view(kind, key)
        return _text(self._table.read_views(views, key) if key is not None else [])

    async def read_text_async(self, kind: str, key: Any, seconds: float | None = None) -> tuple[str, str] | None:
        """As `read_text`, while the event loop goes on; `seconds` as in `read_user_async`."""
        views, key = self._text_view(kind, key)
        if key is None:
            return None
        (found,) = await self._table.read_views_async(views, [key], self._within(seconds))
        if isinstance(found, StorageError):
            raise found
        return _text(found)

    def missing_columns(self) -> list[str]:
        """The user's own columns that the online view does not hold: their values are unknown for every user.

        A view that is not known at all lacks none: its status says `missing`.

        Raises:
            StorageError: the registry cannot be read.
        """
        view = self._find("user_features") if self._declared else None
        held = {column.name for column in view.features} if view is not None else set(self._declared)
        return [name for name in self._declared if name not in held]

    def populated(self, views: Iterable[str]) -> bool:
        """Whether each of these views was filled and still holds what was written.

        Args:
            views: Feast names or unversioned ones, of value views or their `_ref` twins. What is of items is read from the
                catalogue, and counts as there; so does an unversioned vector view of which this reader was given no
                version, because it does not read it.

        Raises:
            StorageError: the online store does not answer in time.
        """
        for name in views:
            base = name.removesuffix("_ref")
            if base.startswith("item_") or (find_kind(base) is not None and base not in self._versions):
                continue
            view = self._find(base)
            # The pipeline may reach the same store by another address; what it wrote is read back here.
            if view is None or not any(is_live(self._table, view, p) for p in probes_of(self.settings, view.name)):
                return False
        return True

    def _asked(self, user_id: Any) -> tuple[list[str], Any]:
        """The user's views that the registry knows, and their key; None where the user can be in none of them."""
        known = [view for view in self._user_views if self._find(view) is not None]
        return known, self._as_id(user_id, known)

    def _text_view(self, kind: str, key: Any) -> tuple[list[FeatureView], Any]:
        name = f"{kind}_text"
        view = self._find(name)
        return ([], None) if view is None else ([view], self._as_id(key, [name]))

    def _within(self, seconds: float | None) -> float:
        longest = self.settings.online.timeout_ms / 1000
        return longest if seconds is None else min(seconds, longest)

    def _state(self, user_id: Any, rows: Mapping[str, Row]) -> UserState:
        status: dict[str, Status] = {}
        published, fresh = {}, {}
        for view in self._user_views:
            row = rows.get(view)
            if not isinstance(row, dict):
                status[view] = MISSING if row is None else DAMAGED
                continue
            published[view] = row["published"]
            status[view] = FOUND if self._is_fresh(view, row) else STALE
            if status[view] == FOUND:
                fresh[view] = row
        features, stats = fresh.get("user_features", {}), fresh.get("user_stats", {})
        values = {name: features.get(name) for name in self._declared} | {name: stats.get(name) for name in _STATS}
        return UserState(
            user_id=user_id,
            values=values,
            history=list(fresh.get("user_history", {}).get("history") or []),
            vectors={v: fresh.get(v, {}).get("vector") for v in self._versions if is_of(v, "user")},
            status=status,
            published=published,
        )

    def _is_fresh(self, view: str, row: Mapping[str, Any]) -> bool:
        limit = self._limits.get(view)
        return limit is None or self.clock.now_micros() - row["watermark"] <= limit

    def _find(self, view: str) -> FeatureView | None:
        """A view by unversioned or Feast name; None while the registry does not know it."""
        if view not in self._views:
            version = self._versions.get(view)
            if version is None and find_kind(view) is not None:
                return None
            name = view if version is None else f"{view}_{safe(version)}"
            try:
                self._views[view] = self._store.registry.get_feature_view(name, self._store.project, allow_cache=True)
            except FeatureViewNotFoundException:
                return None
            except (SQLAlchemyError, OSError) as error:
                raise StorageError(f"Feast registry of project {self._store.project}: {error}") from error
        return self._views[view]

    def _as_id(self, value: Any, views: Sequence[str]) -> Any:
        """The id in the type of the views' entity; None if it cannot be one."""
        if value is None or not views:
            return None
        kind = self._views[views[0]].entity_columns[0].dtype.to_value_type().name
        if kind == "STRING":
            return str(value)
        try:
            key = int(value)
        except (TypeError, ValueError, OverflowError):
            return None
        return key if -(2**63) <= key < 2**63 else None


def _text(rows: Sequence[Row]) -> tuple[str, str] | None:
    row = rows[0] if rows else None
    return (row["text"], row["text_source"]) if isinstance(row, dict) and row["text"] else None


def _limits(settings: Settings) -> dict[str, int]:
    """How long after its watermark a view's value is known, in microseconds.

    In training its age begins when it could be read: with the lag, however early it was written.
    """
    ages = {view: ttl // dt.timedelta(microseconds=1) for view, ttl in settings.features.ttl.items() if ttl}
    return {
        view: age + lag_micros(settings, kind.name if (kind := find_kind(view)) else view) for view, age in ages.items()
    }


def versions_by_view(versions: Mapping[str, Any]) -> dict[str, str]:
    """Unversioned view name to version, from names of kinds, or views, to versions."""
    views = {kind.name: kind.view for kind in KINDS}
    found = {}
    for key, value in versions.items():
        view = views.get(key, key)
        if find_kind(view) is not None and value:
            found[view] = str(value)
    return found
