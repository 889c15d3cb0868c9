"""Which windows there are, what each stage reads of them, and what time it is for them."""

from __future__ import annotations

import json

from core import ArtifactStore, Clock, Manifest, Settings, Window, from_micros, make_clock
from core.digest import sha256_json
from core.errors import DataError


def artifact_store(settings: Settings) -> ArtifactStore:
    """The artifact store below the settings' root."""
    return ArtifactStore(settings.root)


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
    store.get("validate", window)
    found = with_replays(settings, store.all("validate", until=window))
    if not sum(m.rows.get("interactions", 0) for m in found):
        raise DataError("no interactions are left after validation", file=settings.data.path)
    return found


def missing_before(window: Window, clean: list[Manifest]) -> str:
    """What part of the log before a window no other window covers, as a warning; empty when they join.

    A run without `--end` has a window without an end, which is not before any other.
    """
    if window.start is None:
        return ""
    start = window.start.isoformat()
    ends = [str(m.window["end"]) for m in clean if (m.window["start"] or "") < start and m.window["end"]]
    if not ends:
        return f"no window before {start} was run: if the log has older rows, run `llm4msr run --end {start}` first"
    if max(ends) < start:
        return f"the log from {max(ends)} to {start} was not run and counts for nothing; run that window, too"
    return ""


def with_replays(settings: Settings, validated: list[Manifest]) -> list[Manifest]:
    """Validated artifacts, each followed by the rows that were replayed from its quarantine."""
    replays = {m.inputs["validate"]: m for m in artifact_store(settings).all("replay")}
    return [part for m in validated for part in (m, replays.get(m.digest)) if part is not None]


def stage_clock(settings: Settings, window: Window) -> Clock:
    """The settings' clock; `log_end` is one microsecond after the newest ingested row that is not of the future."""
    last = [json.loads(m.file("meta.json").read_text())["last"] for m in artifact_store(settings).all("ingest", window)]
    known = [value for value in last if value is not None]
    return make_clock(settings, from_micros(max(known) + 1) if known else None)


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
