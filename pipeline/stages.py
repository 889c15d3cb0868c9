"""The stages: plain functions `stage(settings, window) -> Manifest`, called alike by Airflow, the command line, tests
and notebooks. Each is idempotent and restartable; the same again is a no-op that says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core import (
    ArtifactStore,
    Built,
    Clock,
    Manifest,
    Settings,
    Window,
    as_utc,
    from_micros,
    logger,
    make_clock,
    to_micros,
)
from core.digest import sha256_json
from core.errors import DataError

LOG = logger("pipeline")


def artifact_store(settings: Settings) -> ArtifactStore:
    """The artifact store below the settings' root."""
    return ArtifactStore(settings.root)


def ingest(settings: Settings, window: Window = Window()) -> Manifest:  # noqa: B008
    """Raw logs to canonical tables: interactions, users, items, scenarios."""
    from ingest import read_source, source_digest

    return artifact_store(settings).build(
        "ingest",
        window,
        inputs={"source": source_digest(settings)},
        settings=settings.section("data"),
        rooms=("core", "ingest"),
        builder=lambda out: read_source(settings, window, out),
    )


def validate(settings: Settings, window: Window = Window()) -> Manifest:  # noqa: B008
    """Great Expectations over the canonical tables: faulty rows to quarantine, faulty tables stop the run."""
    store = artifact_store(settings)
    source, clock = store.get("ingest", window), stage_clock(settings, window)
    before = earlier_windows(settings, window)

    def build(out: Path) -> Built:
        from validation import validate_source

        results = [json.loads(manifest.file("results.json").read_text()) for manifest in before]
        return validate_source(
            source.path, out, settings, clock, run_id=source.digest[:16], window=window, earlier=results
        )

    return store.build(
        "validate",
        window,
        inputs={"ingest": source.digest, **_digests("earlier", before), **_clock_input(clock)},
        settings=settings.section("validation", "data"),
        rooms=("core", "validation"),
        builder=build,
    )


def features(settings: Settings, window: Window = Window()) -> Manifest:  # noqa: B008
    """Leak-free statistics and histories, one row per entity and event time."""
    store, clean = artifact_store(settings), clean_tables(settings, window)
    if missing := missing_before(window, clean):
        LOG.warning(missing)

    def build(out: Path) -> Built:
        from feature_repo import build_statistics

        return build_statistics([m.path for m in clean], out, settings, window.bounds_micros()[1])

    return store.build(
        "features",
        window,
        inputs=_digests("validate", clean),
        settings=settings.section("features"),
        rooms=("core", "feature_repo"),
        builder=build,
    )


def knowledge(settings: Settings, window: Window = Window()) -> Manifest:  # noqa: B008
    """Vectors and texts of users, items and scenarios, checked by their gate before they are published."""
    store, clean, clock = artifact_store(settings), clean_tables(settings, window), stage_clock(settings, window)
    train_start = training_start(settings, clean)
    before = earlier_windows(settings, window, "knowledge")

    def build(out: Path) -> Built:
        from knowledge import build_knowledge
        from validation import validate_knowledge

        paths = [m.path for m in clean]
        built = build_knowledge(
            paths,
            out,
            settings,
            clock,
            train_start=train_start,
            cache=store.root / "cache",
            compressors=store,
            # A replayed clock may stand before the window's end: nothing is built from later than its now.
            window_ends=[min(to_micros(as_utc(m.window["end"])), clock.now_micros()) for m in clean if m.window["end"]],
        )
        active = [m for m in clean if m.stage == "validate"][-1].rows.get("users", 0)
        previous = before[-1].path if before else None
        _write(out / "gate.json", validate_knowledge(out, settings, clock, active, previous))
        return built

    return store.build(
        "knowledge",
        window,
        inputs={
            **_digests("validate", clean),
            **_digests("earlier", before[-1:]),
            "train_start": str(train_start),
            **_clock_input(clock),
        },
        settings=settings.section("knowledge", "validation", "data"),
        rooms=("core", "knowledge", "validation"),
        builder=build,
    )


def materialize(settings: Settings, window: Window = Window()) -> Manifest:  # noqa: B008
    """Write the newest values to the online store and publish the catalogue that serving polls."""
    from core.store import replace_json

    store, clock, clean = artifact_store(settings), stage_clock(settings, window), clean_tables(settings, window)
    made = {"features": store.get("features", window), "knowledge": store.get("knowledge", window)}
    paths: dict[str, Any] = {
        "sources": [m.path for m in clean],
        "features": made["features"].path,
        "knowledge": made["knowledge"].path,
    }
    inputs = {
        **_digests("validate", clean),
        **{name: manifest.digest for name, manifest in made.items()},
        **_clock_input(clock),
    }

    def build_catalogue(out: Path) -> Built:
        from feature_repo import build_catalogue

        return build_catalogue(settings, clock, out=out, **paths)

    catalogue = store.build(
        "catalogue",
        window,
        inputs=inputs,
        settings=settings.section("features") | {"items": settings.data.item_categorical + settings.data.item_dense},
        rooms=("core", "feature_repo"),
        builder=build_catalogue,
    )

    def build(out: Path) -> Built:
        from feature_repo import materialize as write_online
        from feature_repo import sample_online
        from validation import validate_online

        start, end = window.bounds_micros()
        written = write_online(settings, clock, start=start, end=end, **paths)
        _write(out / "written.json", written)
        _write(out / "run" / "gate.json", validate_online(sample_online(settings, clock, **paths), settings, clock))
        return Built(rows=written, versions=dict(made["knowledge"].versions))

    manifest = store.build(
        "materialize",
        window,
        inputs=inputs,
        settings=settings.section("features", "online", "registry")
        | {"max_online_age": str(settings.validation.max_online_age)},
        rooms=("core", "feature_repo", "validation"),
        builder=build,
        still_valid=lambda found: _online_is_populated(settings, clock, found),
    )
    replace_json(
        store.root / "serving" / "catalogue.json",
        {"catalogue": str(catalogue.path.relative_to(store.root)), "digest": catalogue.digest},
    )
    return manifest


def dataset(settings: Settings, window: Window = Window()) -> Manifest:  # noqa: B008
    """The point-in-time training table, joined by Feast, stopped by its gate if it leaks."""
    store, clock, clean = artifact_store(settings), stage_clock(settings, window), clean_tables(settings, window)
    made = {"features": store.get("features", window), "knowledge": store.get("knowledge", window)}
    train_start = training_start(settings, clean)

    def build(out: Path) -> Built:
        from feature_repo import build_training_table
        from validation import validate_training_table

        built = build_training_table(
            settings,
            clock,
            sources=[m.path for m in clean],
            features=made["features"].path,
            knowledge=made["knowledge"].path,
            out=out,
            window=training_window(settings, window),
            train_start=train_start,
        )
        _write(out / "gate.json", validate_training_table(out, settings, clock, made["knowledge"].path))
        return built

    return store.build(
        "dataset",
        window,
        inputs={
            **_digests("validate", clean),
            **{name: manifest.digest for name, manifest in made.items()},
            "train_start": str(train_start),
            **_clock_input(clock),
        },
        settings=settings.section("split", "features", "data") | {"user_vectors": settings.knowledge.user_vectors},
        rooms=("core", "feature_repo", "validation"),
        builder=build,
    )


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
    """The settings' clock; `log_end` is one microsecond after the newest ingested row, `window.end` at the latest."""
    last = [json.loads(m.file("meta.json").read_text())["last"] for m in artifact_store(settings).all("ingest", window)]
    known = [value for value in last if value is not None]
    return make_clock(settings, from_micros(max(known) + 1) if known else None)


def training_start(settings: Settings, clean: list[Manifest]) -> int:
    """Where training rows begin, in microseconds; decided by the first run and kept from then on."""
    from feature_repo import compute_train_start

    key = sha256_json({"warmup": settings.split.warmup, **settings.section("data")})[:16]
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


def _online_is_populated(settings: Settings, clock: Clock, manifest: Manifest) -> bool:
    from feature_repo import OnlineReader

    return OnlineReader(settings, clock, manifest.versions).populated([v for v, n in manifest.rows.items() if n])


def _digests(stage: str, manifests: list[Manifest]) -> dict[str, str]:
    return {f"{stage}_{number}": manifest.digest for number, manifest in enumerate(manifests)}


def _clock_input(clock: Clock) -> dict[str, str]:
    return {"clock": clock.now().isoformat()} if clock.fixed is not None else {}


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=1, sort_keys=True, default=str) + "\n", encoding="utf-8")
