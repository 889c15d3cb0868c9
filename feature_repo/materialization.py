"""Bring the newest values online: explicit windows, bounded batches, every row counted.

Why this does not go through `FeatureStore.materialize`: docs/decisions/feast-materialise.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy.exc import SQLAlchemyError

from core import Clock, Settings, from_micros, logger, progress
from core.digest import sha256_json, sha256_text
from core.errors import StorageError
from core.files import replace_json
from core.manifest import FILE as MANIFEST
from core.manifest import data_digest, read_manifest
from feature_repo import views
from feature_repo.feast_names import FeatureStore, FeatureView, FeatureViewNotFoundException, FeatureViewState
from feature_repo.generations import declared_generations, remember
from feature_repo.interaction_log import time_span
from feature_repo.online import OnlineTable, use_write_ahead_log
from feature_repo.online_ids import OnlineIds, wanted_ids
from feature_repo.online_source import CATALOGUES, Span, state_of, write_source
from feature_repo.overlay import feast_folder, open_store
from feature_repo.statistics import lag_micros
from feature_repo.user_store import WRITE_BATCH
from feature_repo.views import Generation, SourcePaths
from ingest import PushedLog

LOG = logger("feature_repo")
# What follows from the rows of the log and the recipe alone.
LOGGED = ("user_stats", "item_stats", "user_history")
_EPOCH = 0


@dataclass(frozen=True)
class Probe:
    """What is known to be online of a view.

    Attributes:
        view: Feast name.
        id: one id that must be there; None: the view was empty.
        rows: most rows that were written at once.
        since, until: publish times between which all is online, in microseconds.
        recipe: what the values were made by (see `_recipe`).
        past: what the newest values up to `until` were made of (see `_past`).
    """

    view: str
    id: Any
    rows: int
    since: int
    until: int = _EPOCH
    recipe: str = ""
    past: str = ""

    @classmethod
    def read(cls, path: Path) -> Probe:
        """The probe of a file; one of an earlier version lacks fields, one of a later version may have more."""
        body = json.loads(path.read_text())
        return cls(**{name: body[name] for name in cls.__dataclass_fields__ if name in body})


def materialize(
    settings: Settings,
    clock: Clock,
    *,
    sources: Sequence[Path],
    features: Path,
    knowledge: Path,
    start: int | None = None,
    end: int | None = None,
    newest: bool = True,
) -> dict[str, int]:
    """Write the newest value of every entity to the online store, and tell the registry of this generation.

    What counts is published between the end of what is online and the clock's now; of what catalogues say, the rows that
    are others than those that are online. Where the clock is the machine's own, all that is built is published now, before
    its lag is over: a lag is what training assumes. A view that is not yet online, was lost, or whose values are made by
    another recipe since (columns, prior, history length, code), or of other rows of the log, is written from the
    beginning. Doing it twice changes nothing; a newer row that was pushed meanwhile stays; a correction with the same
    times wins.

    Args:
        settings: stores, declared columns, history length, times to live.
        clock: values published after its now stay offline, if it stands still.
        sources: validate artifacts, oldest window first.
        features, knowledge: artifact folders.
        start: window start in microseconds; None: all is written, whatever is online.
        end: window end in microseconds. The artifacts hold nothing after it, so that what follows is not yet online; rows
            that a lag publishes later than `end` are written as soon as the clock allows.
        newest: no later window is online. A late window takes nothing away, and leaves what catalogues say to the later one.

    Returns:
        Feast view name to rows written.

    Raises:
        StorageError: a store cannot be reached, or does not hold afterwards what was written.
        MissingArtifactError: an earlier stage has not been run.
    """
    store, generation, paths = apply(settings, sources=sources, features=features, knowledge=knowledge)
    table = OnlineTable(store)
    until, users = clock.now_micros(), _pushed_users(settings, generation)
    live, logged = clock.fixed is None, _Logged(sources)
    code = read_manifest(features).code if (features / MANIFEST).is_file() else ""
    written = {}
    shown = views.online_views(settings, generation, paths)
    for view, feast_view in progress(shown.items(), "writing online", unit="views"):
        probe = _live_probe(settings, table, feast_view)
        recipe = _recipe(settings, view, feast_view, generation, live, code)
        # What another recipe wrote does not count: beyond this window's end nobody makes it anew.
        reached = probe.until if probe is not None and probe.recipe == recipe else _EPOCH
        if newest and reached and probe is not None and probe.past != _past(paths, view, reached, live, logged):
            # A corrected title, a replayed row, another version of texts: values of before this window are others now.
            LOG.info("online view %s: earlier values have changed since they were written, so all are written", view)
            reached = _EPOCH
        if not newest and view in CATALOGUES and probe is not None:
            written[feast_view.name] = 0
            continue
        ids = OnlineIds(_ids_file(settings, feast_view.name), feast_view.join_keys[0])
        if ids.of_another_type(paths.ref(view)):
            ids.drop()  # keys of another type: nobody asks for them any more
        wanted = wanted_ids(paths.ids(view), ids.key, until), _also(view, users, ids.key, generation)
        all_of_it = start is None or reached == _EPOCH
        # A late window's rows lie before what is online.
        begin = reached if newest or start is None else min(start, reached)
        span = Span(_EPOCH if all_of_it else min(begin, until), until, live=live)
        held = ids.digests() if view in CATALOGUES and not all_of_it else None
        file, rows = write_source(generation, paths, view, feast_view, span, settings.features.history_length, held)
        ids.grow(*wanted)
        write_online(table, feast_view, file, rows, replace=view in CATALOGUES)
        reached = max(reached, until if end is None else min(end, until))
        past = _past(paths, view, reached, live, logged) if newest or probe is None else probe.past
        made = Probe(feast_view.name, None, rows, span.since, reached, recipe, past)
        _remember(settings, feast_view, file, made, probe)
        if newest:
            _take_away(settings, table, feast_view, ids, ids.gone(*wanted))
            ids.shrink(*wanted)
        if view in CATALOGUES:
            ids.note(file)
        _record(store, feast_view, span)
        written[feast_view.name] = rows
    if newest:
        _take_away_others(settings, store, table, paths, users, set(written))
        for view, feast_view in views.value_views(generation, paths).items():
            if view not in shown:
                _take_all_away(settings, table, feast_view)
    LOG.info("online: %s", ", ".join(f"{name} {count:,}" for name, count in written.items()))
    return written


def apply(
    settings: Settings, *, sources: Sequence[Path], features: Path, knowledge: Path
) -> tuple[FeatureStore, Generation, SourcePaths]:
    """Tell the shared registry of the generation that settings and artifacts make; other generations stay.

    Returns:
        The open store, the generation and the files behind its views.

    Raises:
        StorageError: the registry cannot be reached or written.
    """
    folder = feast_folder(settings)
    users, items = features / "users.parquet", features / "items.parquet"
    generation = views.generation_of(settings, users=users, items=items, knowledge=knowledge)
    paths = views.shared_paths(settings, users=users, items=items, features=features, knowledge=knowledge)
    if settings.online.store == "sqlite":
        use_write_ahead_log(folder / "online.db")
    try:
        store = open_store(settings)
        if not store.registry.list_feature_views(store.project):
            for known in declared_generations(settings):  # the registry was lost, and champions read older ones
                views.apply(store, *known)
        views.apply(store, generation, paths)
    except (SQLAlchemyError, OSError) as error:
        raise StorageError(f"Feast registry of project {settings.project}: {error}") from error
    remember(settings, generation, paths)
    return store, generation, paths


def probe_of(settings: Settings, view: str) -> Probe | None:
    """What `materialize` remembers of a view in the settings' online store, by Feast name."""
    path = _probe_file(settings, view)
    return Probe.read(path) if path.is_file() else None


def probes_of(settings: Settings, view: str) -> list[Probe]:
    """What `materialize` remembers of a view, for each spelling of an online store's address."""
    folder = feast_folder(settings) / "probes"
    return [Probe.read(path) for path in sorted(folder.glob(f"*/{view}.json"))]


def known_user(settings: Settings) -> Any:
    """The id of a user who is online, for examples; None where nobody is known to be."""
    probe = probe_of(settings, "user_stats")
    return None if probe is None else probe.id


def is_live(table: OnlineTable, view: FeatureView, probe: Probe | None) -> bool:
    """Whether a view was filled and still is: its remembered row can be read."""
    if probe is None or not table.has_view(view):
        return False
    return probe.id is None or table.read(view, [probe.id])[0] is not None


def _live_probe(settings: Settings, table: OnlineTable, view: FeatureView) -> Probe | None:
    probe = probe_of(settings, view.name)
    return probe if is_live(table, view, probe) else None


def _pushed_users(settings: Settings, generation: Generation) -> pa.Table:
    """Users who are online by what was pushed, whether or not a window holds their rows."""
    kind = pa.type_for_alias(generation.user_id)
    return pa.table({"user_id": pa.array(PushedLog(settings.root).users(kind), kind)})


def _also(view: str, users: pa.Table, key: str, generation: Generation) -> pa.Table:
    """The ids that a push may have put into a view."""
    if view.startswith("user_") and view not in ("user_features", "user_text"):
        return users
    kinds = {"user_id": generation.user_id, "item_id": generation.item_id}
    return pa.table({key: pa.array([], pa.type_for_alias(kinds.get(key, "string")))})


def _take_away(
    settings: Settings, table: OnlineTable, view: FeatureView, ids: OnlineIds, gone: Iterable[list[Any]]
) -> None:
    count = 0
    for some in gone:
        ids.unnote(some)
        table.remove(view, some)
        reassure(settings, table, view, ids, some)
        count += len(some)
    if count:
        LOG.info("online: %s entities taken out of %s", f"{count:,}", view.name)


def _take_all_away(settings: Settings, table: OnlineTable, view: FeatureView) -> None:
    """What was online before the settings said that it shall not be."""
    ids = OnlineIds(_ids_file(settings, view.name), view.join_keys[0])
    if ids.file.is_file():
        _take_away(settings, table, view, ids, ids.batches())
        ids.drop()
    _probe_file(settings, view.name).unlink(missing_ok=True)


def _take_away_others(
    settings: Settings, store: FeatureStore, table: OnlineTable, paths: SourcePaths, users: pa.Table, done: set[str]
) -> None:
    """Users who are gone from the log, out of views of other versions: a roll-back must not bring them back."""
    wanted = wanted_ids(paths.ids("user_stats"), "user_id", _EPOCH), users
    for file in sorted(_probe_folder(settings).glob("user_*.ids.parquet")):
        name = file.name.removesuffix(".ids.parquet")
        if name in done:
            continue
        try:
            view = store.registry.get_feature_view(name, store.project)
        except FeatureViewNotFoundException:
            file.unlink()
            continue
        ids = OnlineIds(file, "user_id")
        for some in ids.gone(*wanted):
            table.remove(view, some)
            reassure(settings, table, view, ids, some)
            ids.without(some)


def erase_online(settings: Settings, users: Sequence[Any], *, count_only: bool = False) -> int:
    """Take users out of the online store: every view of every version, and what is noted of them.

    Returns:
        What was found: rows in SQLite, users in Redis.

    Raises:
        StorageError: a store cannot be reached.
    """
    folder = feast_folder(settings)
    if settings.online.store == "sqlite" and not (folder / "online.db").is_file():
        return 0
    store = open_store(settings)
    table = OnlineTable(store)
    count = table.erase("user_id", users, count_only=count_only)
    if count_only:
        return count
    for file in sorted(_probe_folder(settings).glob("user_*.ids.parquet")):
        ids = OnlineIds(file, "user_id")
        try:
            view = store.registry.get_feature_view(file.name.removesuffix(".ids.parquet"), store.project)
        except FeatureViewNotFoundException:
            view = None
        if view is not None:
            reassure(settings, table, view, ids, users)
        ids.without(users)
    return count


def reassure(settings: Settings, table: OnlineTable, view: FeatureView, ids: OnlineIds, gone: Sequence[Any]) -> None:
    """Let the view be known by another row where the one that was remembered was taken away."""
    probe = probe_of(settings, view.name)
    if probe is None or probe.id not in gone:
        return
    others = (one for batch in ids.batches() for one in batch if one not in gone)
    known = next((one for one in others if table.read(view, [one])[0] is not None), None)
    replace_json(_probe_file(settings, view.name), asdict(replace(probe, id=known)))


def write_online(table: OnlineTable, view: FeatureView, file: Path, rows: int, *, replace: bool) -> None:
    """Write the rows of a file online, batch by batch, and check their number.

    Args:
        table: the online store.
        view: whose rows they are.
        file: parquet, one row an entity.
        rows: how many there must be.
        replace: as `OnlineTable.write` takes it.

    Raises:
        StorageError: another number of rows went online.
    """
    batches = pq.ParquetFile(file).iter_batches(batch_size=WRITE_BATCH)
    count = 0
    for batch in progress(batches, f"writing {view.name}", total=-(-rows // WRITE_BATCH), unit="batches"):
        count += table.write(view, batch, replace=replace)
    if count != rows:
        raise StorageError(
            f"view {view.name}: {rows:,} rows were to go online, {count:,} did; see whether the online store is full "
            "or evicts keys, then run `llm4msr materialize` again"
        )


def _remember(settings: Settings, view: FeatureView, file: Path, made: Probe, old: Probe | None) -> None:
    if old is not None and (made.rows == 0 or old.id is not None):
        made = replace(made, id=old.id, rows=max(made.rows, old.rows), since=min(made.since, old.since))
    elif made.rows:
        key = next(pq.ParquetFile(file).iter_batches(1, columns=list(view.join_keys)))[0][0].as_py()
        made = replace(made, id=key)
    replace_json(_probe_file(settings, view.name), asdict(made))


class _Logged:
    """The rows of the log that values are made of: each validated window's, with the time of its first."""

    def __init__(self, sources: Sequence[Path]) -> None:
        spans = [time_span([source]) for source in sources]
        digests = [data_digest(source, "interactions.parquet") for source in sources]
        self._parts = [(span and span[0], digest) for span, digest in zip(spans, digests, strict=True)]

    def until(self, moment: int) -> str:
        """A digest of the windows that have rows up to a moment, in microseconds."""
        return sha256_json([digest for first, digest in self._parts if first is not None and first <= moment])[:16]


def _past(paths: SourcePaths, view: str, until: int, live: bool, logged: _Logged) -> str:
    """What the values of a view up to `until` are made of: two artifacts that differ in it may hold others of the same times."""
    return logged.until(until) if view in LOGGED else state_of(paths, view, until, live)


def _recipe(
    settings: Settings, view: str, feast_view: FeatureView, generation: Generation, live: bool, code: str
) -> str:
    """A digest of what makes a view's values from the same log: what differs from it must be written anew."""
    features = settings.features
    key = {"user_id": generation.user_id, "item_id": generation.item_id}.get(feast_view.join_keys[0], "string")
    made: dict[str, Any] = {
        "key": key,
        "columns": [[f.name, str(f.dtype), f.vector_length] for f in feast_view.features],
        # A clock that stands still holds values back until their lag is over.
        "live": live,
    }
    if view in LOGGED:
        made |= {"code": code, "lag": lag_micros(settings, view)}
    if view.endswith("_stats"):
        made["prior"] = [features.prior_rate, features.prior_weight]
    if view == "user_history":
        made["length"] = features.history_length
    return sha256_json(made)[:16]


def _record(store: FeatureStore, view: FeatureView, span: Span) -> None:
    """Let the registry know, once per span: it keeps every interval for good."""
    start, end = from_micros(span.since), from_micros(span.until)
    known = store.registry.get_feature_view(view.name, store.project)
    if (start, end) in known.materialization_intervals and known.state == FeatureViewState.AVAILABLE_ONLINE:
        return
    try:
        store.registry.apply_materialization(known, store.project, start, end)
    except (SQLAlchemyError, OSError) as error:
        raise StorageError(f"Feast registry of project {store.project}: {error}") from error


def _probe_folder(settings: Settings) -> Path:
    address = settings.online.url if settings.online.store == "redis" else "sqlite"
    return feast_folder(settings) / "probes" / sha256_text(address)[:8]


def _probe_file(settings: Settings, view: str) -> Path:
    return _probe_folder(settings) / f"{view}.json"


def _ids_file(settings: Settings, view: str) -> Path:
    return _probe_folder(settings) / f"{view}.ids.parquet"
