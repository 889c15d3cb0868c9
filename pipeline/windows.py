"""Which windows there are, what each stage reads of them, and what time it is for them."""

from __future__ import annotations

import json
from collections.abc import Iterable

from core import ArtifactStore, Clock, Manifest, Settings, Window, from_micros, logger, make_clock
from core.contracts.chain import Chain
from core.contracts.ingested import Ingested
from core.digest import canonical_json, sha256_json
from core.errors import DataError, EmptyWindowError
from core.source import code_version
from pipeline.declared import shaping
from pipeline.graph import GRAPH
from pipeline.id_types import of_one_type

LOG = logger("pipeline")


def artifact_store(settings: Settings) -> ArtifactStore:
    """The artifact store below the settings' root."""
    return ArtifactStore(settings.root, memory=settings.resources.memory)


def earlier_windows(settings: Settings, window: Window, stage: str = "validate") -> list[Manifest]:
    """A stage's newest artifacts of windows that end before this one starts, in order."""
    if window.start is None:
        return []
    limit, count = window.start.isoformat(), settings.validation.history_windows
    found = artifact_store(settings).all(stage)
    return [m for m in found if m.window["end"] is not None and str(m.window["end"]) <= limit][-count:]


def clean_tables(settings: Settings, window: Window) -> list[Manifest]:
    """The validated artifacts of all windows up to this one's end, each with what was replayed from its quarantine.

    Raises:
        MissingArtifactError: this window was not validated yet.
        DataError: no rows are left in any of them.
    """
    store = artifact_store(settings)
    newest = store.get("validate", window)
    found = with_replays(settings, of_one_type(settings, store, store.all("validate", until=window), newest))
    if not sum(m.rows.get("interactions", 0) for m in found):
        raise DataError("no interactions are left after validation", file=settings.data.path)
    return found


def covering(settings: Settings) -> list[Manifest]:
    """One artifact for each window whose rows count, or of which it is known that it has none."""
    store = artifact_store(settings)
    return store.all("validate") + [m for m in store.all("ingest") if is_empty(m)]


def covered_until(window: Window, covering: Iterable[Manifest]) -> str | None:
    """Up to where windows that begin before this one cover the log, as manifests write times; None: there is none.

    A run without `--end` has a window without an end, which is not before any other.
    """
    start = window.start.isoformat() if window.start is not None else ""
    return max(
        (str(m.window["end"]) for m in covering if (m.window["start"] or "") < start and m.window["end"]),
        default=None,
    )


def missing_before(window: Window, covering: Iterable[Manifest]) -> str:
    """What part of the log before a window no other window covers, as a warning; empty when they join."""
    if window.start is None:
        return ""
    start, until = window.start.isoformat(), covered_until(window, covering)
    if until is None:
        return f"no window before {start} was run: if the log has older rows, run `llm4msr run --end {start}` first"
    if until < start:
        return f"the log from {until} to {start} was not run and counts for nothing; run that window, too"
    return ""


def caught_up(settings: Settings, window: Window) -> Window:
    """The window, begun where the windows before it end, or at the log's start where there are none.

    So a schedule leaves no stretch of the log out, whenever it is switched on. Where a window begins is decided once:
    run again, it is the same window, whatever was run in between.
    """
    if window.start is None:
        return window
    store, name = artifact_store(settings), f"start_{window.key}"
    pinned = store.pinned(name)
    until = pinned["start"] if pinned else covered_until(window, covering(settings))
    if until is not None and until >= window.start.isoformat():
        return window
    start = store.pin(name, lambda: {"start": until})["start"]
    if pinned is None:
        since = start or "the log's start"
        LOG.info("taking in the log from %s, which no window before %s covers", since, window.start.isoformat())
    return Window.parse(start, window.end)


def is_empty(ingested: Manifest) -> bool:
    """Whether an ingest artifact's window holds no row of the log."""
    return Ingested.read(ingested.path).empty


def refuse_empty(settings: Settings, window: Window, ingested: Manifest) -> None:
    """Stop before a window without rows is judged, if it shall be skipped.

    Raises:
        EmptyWindowError: there is nothing to do.
        DataError: the window held rows when it was run before, and they still count.
    """
    if settings.validation.empty_window != "skip" or not is_empty(ingested):
        return
    before = [m for m in artifact_store(settings).all("validate") if m.window == window.as_json()]
    if before and (rows := before[0].rows["interactions"]):
        raise DataError(
            f"the log holds no row of window {window.key} any more; the {rows:,} rows that were read before still count. "
            "If they shall go, run it with validation.empty_window: fail and validation.min_rows: 0",
            file=settings.data.path,
        )
    raise EmptyWindowError(
        f"the log holds no row of window {window.key}: nothing to do (validation.empty_window: skip)"
    )


def with_replays(settings: Settings, validated: list[Manifest]) -> list[Manifest]:
    """Validated artifacts, each followed by the rows that were replayed from its quarantine."""
    replays = {m.inputs["validate"]: m for m in artifact_store(settings).all("replay")}
    return [part for m in validated for part in (m, replays.get(m.digest)) if part is not None]


def stage_clock(settings: Settings, window: Window) -> Clock:
    """The settings' clock; `log_end` is one microsecond after the newest ingested row that is not of the future."""
    if settings.clock.at == "window_end" and window.end is not None:
        return make_clock(settings, window.end)
    last = [Ingested.read(m.path).last for m in artifact_store(settings).all("ingest", window)]
    known = [value for value in last if value is not None]
    return make_clock(settings, from_micros(max(known) + 1) if known else None)


def alike(settings: Settings, stage: str, manifests: Iterable[Manifest]) -> list[Manifest]:
    """Those of a stage's artifacts that were made by today's code and settings, and are as they were made."""
    shape, code = json.loads(canonical_json(shaping(settings, stage))), code_version(GRAPH[stage].rooms)
    return [m for m in manifests if m.code == code and m.settings == shape and m.rewritten is None]


def made_before(settings: Settings, stage: str, clean: list[Manifest]) -> list[Manifest]:
    """A stage's artifacts of the first of these validated tables that hold what it would make of them today, those of most
    tables first: an artifact in segments can go on from one of them.
    """
    wanted = [manifest.digest for manifest in clean]

    def read(manifest: Manifest) -> list[str]:
        names = sorted(
            (n for n in manifest.inputs if n.startswith("validate_")), key=lambda n: int(n.rsplit("_", 1)[1])
        )
        return [manifest.inputs[name] for name in names]

    found = []
    for manifest in alike(settings, stage, artifact_store(settings).find(stage)):
        sources = read(manifest)
        first = len(sources) < len(wanted) and sources == wanted[: len(sources)]
        if first and manifest.file(Chain.FILE).is_file():
            found.append((len(sources), manifest))
    return [manifest for _, manifest in sorted(found, key=lambda pair: -pair[0])]


def training_start(settings: Settings, clean: list[Manifest]) -> int:
    """Where training rows begin, in microseconds; decided by the first run and kept from then on."""
    from feature_repo import compute_train_start

    # What says which rows the log has; a new path, column or description must not move the start.
    data = settings.section("data")["data"]
    log = {name: data[name] for name in ("source", "files", "columns", "timestamp_unit", "label")}
    key = sha256_json({"warmup": settings.split.warmup, **log})[:16]
    return int(
        artifact_store(settings).pin(
            f"train_start_{key}", lambda: compute_train_start([m.path for m in clean], settings)
        )
    )


def training_window(settings: Settings, window: Window) -> Window:
    """The rows of a window's training table: all up to its end, or the last `split.horizon` of them.

    A daily window refreshes the model on the whole log so far, not on one day of it.
    """
    start = None
    if settings.split.horizon is not None and window.end is not None:
        start = window.end - settings.split.horizon
    return Window(start, window.end)


def late_pushes(settings: Settings, window: Window) -> list[tuple[str | None, str | None]]:
    """Start and end of earlier windows to which something was pushed since they were ingested.

    It is online, but not in training; and not online any more once its user's row is written from the log again.
    """
    from ingest import PushedLog

    if not settings.push.ingest or window.start is None:
        return []
    pushed, limit = PushedLog(settings.root), window.start.isoformat()
    earlier = [
        m for m in ArtifactStore(settings.root).all("ingest") if m.window["end"] and str(m.window["end"]) <= limit
    ]
    bounds = [(m.window["start"], m.window["end"], m.inputs.get("pushed")) for m in earlier]
    return [(start, end) for start, end, known in bounds if pushed.digest(Window.parse(start, end)) != known]
