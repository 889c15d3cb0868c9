"""The push path: fresh interactions change their users' counters, history and pooled vector online at once.

This is what makes a lag of zero honest: training assumes that these values are known from the next microsecond on.
The states are computed from the users' whole log by the functions of the batch path, so that both write equal rows.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import Clock, Settings, from_micros, logger, make_clock
from core.contracts.kinds import PUSHED
from core.contracts.pointers import CataloguePointer, PushPointer
from core.errors import DataError, MissingArtifactError, StorageError
from core.filesystem import locked
from core.forgotten import Forgotten
from core.tables import TIMESTAMP, conform, interactions_schema
from feature_repo.fresh import RowFault, find_faults, read_columns, read_records
from feature_repo.interaction_log import id_types
from feature_repo.statistics import entity_state
from feature_repo.user_log import Rows, UserLog
from feature_repo.user_states import Pooler, StateWriter, due_snapshots
from feature_repo.user_store import WRITE_BATCH
from feature_repo.wire import safe

LOG = logger("feature_repo")


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        rows: rows that were taken.
        users: users whose state was written; more than those of the rows where earlier ones still waited.
        views: Feast view name to users written.
        faults: rows that were not taken, and why.
        unknown_items: items of the rows taken that the published catalogue does not have: they count for their users,
            and are not ranked.
        forgotten: rows that were dropped, because their users are forgotten.
    """

    rows: int = 0
    users: int = 0
    views: dict[str, int] = field(default_factory=dict)
    faults: tuple[RowFault, ...] = ()
    unknown_items: tuple[Any, ...] = ()
    forgotten: int = 0


def push(
    settings: Settings,
    clock: Clock,
    rows: pa.Table,
    *,
    sources: Sequence[Path],
    pooler: Pooler | None = None,
) -> dict[str, int]:
    """Push once; arguments and errors as of `Pusher` and `Pusher.push`. Returns Feast view name to users written."""
    return Pusher(settings, clock, sources=sources, pooler=pooler).push(rows).views


class Pusher:
    """Writes the state that the users of fresh interactions now have to the online store.

    Rows are kept in `root/live` first, so that nothing is lost if the store is down: their users wait, and the next push
    writes them too. Pushing rows again is harmless: each counts once, however often it comes and whether or not a
    later ingest brings it too. Not for several threads; several processes of one machine take turns.

    Args:
        settings: stores, prior, history length, thresholds and `max_age` of the pooled vector.
        clock: rows later than its now (and `validation.max_future`) are refused.
        sources: validate artifacts, oldest window first.
        pooler: makes pooled vectors, e.g. `knowledge.load_pooler(artifact)`. Without it pooled vectors wait for the
            next materialisation.
        patience: seconds to wait while another process pushes; None: as long as it takes.

    Raises:
        MissingArtifactError: nothing was validated yet.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        *,
        sources: Sequence[Path],
        pooler: Pooler | None = None,
        patience: float | None = None,
    ) -> None:
        self.settings, self.clock, self.pooler, self._patience = settings, clock, pooler, patience
        self.ids = id_types(sources)
        self.scenarios = pq.read_table(sources[-1] / "scenarios.parquet")["scenario"].to_pylist()
        self._log = UserLog(settings.root, sources)
        self._log.pushed.settle(self.ids)
        self._writer: StateWriter | None = None
        self._items: pa.Array | None = None

    def push(self, rows: pa.Table) -> Pushed:
        """Push a table whole, or refuse it.

        Args:
            rows: the schema of `core.tables.interactions_schema`.

        Raises:
            DataError: the rows lack a column, hold a null, a wrong label or scenario, or lie in the future.
            MissingArtifactError: nothing was materialised yet.
            StorageError: the live folder or the online store cannot be written.
        """
        rows = conform(rows, interactions_schema(self.ids), "interactions")
        if faults := self.faults(rows):
            raise DataError(faults[0].reason, row=faults[0].row + 1, column=faults[0].field)
        return self.push_sound(rows)

    def faults(self, rows: pa.Table) -> list[RowFault]:
        """Rows in the schema of interactions that cannot be pushed, and why."""
        span = self.settings.validation.max_future // dt.timedelta(microseconds=1)
        return find_faults(rows, self.scenarios, self.clock.now_micros() + span)

    def push_records(self, records: Sequence[Any]) -> Pushed:
        """Push what is sound of decoded JSON objects (see `fresh.read_records`); the others come back as faults.

        Raises:
            MissingArtifactError, StorageError: as `push`.
        """
        return self._push_read(read_records(records, self.ids, self.settings.data, self.scenarios))

    def push_columns(self, columns: Mapping[str, pa.Array], count: int) -> Pushed:
        """Push what is sound of raw columns (see `fresh.read_columns`); the other rows come back as faults.

        Raises:
            MissingArtifactError, StorageError: as `push`.
        """
        return self._push_read(read_columns(columns, count, self.ids, self.settings.data, self.scenarios))

    def _push_read(self, read: tuple[pa.Table, list[int], list[RowFault]]) -> Pushed:
        rows, places, unread = read
        wrong = self.faults(rows)
        if wrong:
            sound = np.ones(rows.num_rows, dtype=bool)
            sound[[fault.row for fault in wrong]] = False
            rows = rows.filter(pa.array(sound))
        faults = [*unread, *(RowFault(places[f.row], f.field, f.reason) for f in wrong)]
        return replace(self.push_sound(rows), faults=tuple(sorted(faults, key=lambda fault: fault.row)))

    def prepare(self) -> None:
        """Bring the log by user up to date now, so that the first push does not wait for it."""
        with pushing(self.settings.root, self._patience):
            self._log.prepare()

    def push_sound(self, rows: pa.Table) -> Pushed:
        """As `push`, of rows that `faults` finds nothing wrong with; they are not checked again."""
        if not rows.num_rows:
            return Pushed()
        if self._writer is None:
            self._writer = StateWriter(self.settings)
        written: dict[str, int] = {}
        with pushing(self.settings.root, self._patience):
            # Read within the turn: `llm4msr forget` takes its turn, too.
            known = rows.filter(Forgotten(self.settings.root).keep(rows["user_id"]))
            dropped, rows = rows.num_rows - known.num_rows, known
            if dropped:
                LOG.info("%s pushed rows of forgotten users were dropped", f"{dropped:,}")
            self._log.prepare()
            self._log.pushed.add(rows)
            users = self._log.pushed.waiting(self.ids.user)
            for begin in range(0, len(users), WRITE_BATCH):
                part = users[begin : begin + WRITE_BATCH]
                for view, count in self._write(part, self._writer).items():
                    written[view] = written.get(view, 0) + count
                self._log.pushed.written(part)
        LOG.debug("pushed %s rows of %s users", f"{rows.num_rows:,}", f"{len(users):,}")
        unknown = self._unknown(rows["item_id"])
        return Pushed(rows.num_rows, len(users), written, unknown_items=unknown, forgotten=dropped)

    def _unknown(self, items: pa.ChunkedArray) -> tuple[Any, ...]:
        """Those of some items that the published catalogue does not have, in order."""
        if self._items is None:
            pointer = CataloguePointer.read(self.settings.root)
            if pointer is None:
                return ()
            folder = pointer.folder(self.settings.root)
            self._items = pq.read_table(folder / "items.parquet", columns=["item_id"])["item_id"].combine_chunks()
        asked = pc.unique(items).cast(self._items.type)
        return tuple(asked.filter(pc.invert(pc.is_in(asked, value_set=self._items))).to_pylist())

    def _write(self, users: Sequence[Any], writer: StateWriter) -> dict[str, int]:
        logs = self._log.read(users, self.ids.item)
        states = {user: entity_state(self._table(user, rows), self.settings) for user, rows in logs.items()}
        written = writer.write_states(states, self.ids.item)
        if self.pooler is not None:
            name = f"{PUSHED.view}_{safe(self.pooler.version)}"
            written[name] = writer.write_pooled(name, list(due_snapshots(logs, self.settings)), self.pooler)
        return written

    def _table(self, user: Any, rows: Rows) -> pa.Table:
        times, items, scenarios, labels = zip(*rows, strict=True)
        return pa.table(
            {
                "user_id": pa.array([user] * len(rows), self.ids.user),
                "item_id": pa.array(items, self.ids.item),
                "scenario": scenarios,
                "event_timestamp": pa.array(times, pa.int64()).cast(TIMESTAMP),
                "label": pa.array(labels, pa.int8()),
            }
        )


class CurrentPusher:
    """A `Pusher` that always stands on what was materialised last.

    Args:
        settings: of the project; `materialize` writes `root/serving/push.json`, which names the rest.
        patience: as of `Pusher`.
    """

    def __init__(self, settings: Settings, patience: float | None = None) -> None:
        self.settings, self._patience = settings, patience
        self._pusher: Pusher | None = None
        self._pointer: PushPointer | None = None

    def get(self) -> Pusher:
        """The pusher for the newest window; a new one where another was materialised since.

        Raises:
            MissingArtifactError: nothing was materialised yet.
        """
        root = self.settings.root
        pointer = PushPointer.read(root)
        if pointer is None:
            raise MissingArtifactError(f"{PushPointer.path(root)} does not exist; run `llm4msr materialize` first")
        if self._pusher is None or pointer != self._pointer:
            self._pusher, self._pointer = self._open(pointer), pointer
        return self._pusher

    def _open(self, pointer: PushPointer) -> Pusher:
        root = self.settings.root
        pooler: Pooler | None = None
        if PUSHED.name in self.settings.knowledge.user_vectors:
            from knowledge import load_pooler

            pooler = load_pooler(pointer.knowledge_folder(root))
        clock = make_clock(self.settings, from_micros(pointer.as_of))
        return Pusher(
            self.settings, clock, sources=pointer.source_folders(root), pooler=pooler, patience=self._patience
        )


@contextmanager
def pushing(root: Path, patience: float | None = None) -> Iterator[None]:
    """One push at a time on this machine: each must see the rows of those before it.

    Raises:
        StorageError: the folder cannot be used, or another process pushes for longer than `patience` (seconds).
    """
    folder = root / "live"
    try:
        with locked(folder / ".lock", patience=patience):
            yield
    except OSError as error:
        raise StorageError(f"{folder} cannot be used ({error}); push the rows again") from error
