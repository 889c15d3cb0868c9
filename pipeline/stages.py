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
    logger,
)
from core.contracts.gates import GateResults
from core.contracts.pointers import CataloguePointer, PublishedCatalogue, PushPointer
from core.forgotten import Forgotten
from pipeline.declared import declared, shaping
from pipeline.graph import GRAPH
from pipeline.id_types import id_types_of, of_one_type
from pipeline.knowledge_run import run_of
from pipeline.windows import (
    alike,
    artifact_store,
    clean_tables,
    covering,
    earlier_windows,
    late_pushes,
    made_before,
    missing_before,
    refuse_empty,
    stage_clock,
    training_start,
    training_window,
)

LOG = logger("pipeline")
# Great Expectations' pages within an artifact; they do not count for its digest.
DATA_DOCS = Path("run") / "data_docs"
# Versions of item text that serving can still go back to, beside the newest.
KEPT_TEXTS = 3


def ingest(settings: Settings, window: Window = Window()) -> Manifest:
    """Raw logs to canonical tables: interactions, users, items, scenarios."""
    from ingest import PushedLog, read_source, source_digest

    pushed = PushedLog(settings.root) if settings.push.ingest else None
    digest = pushed.digest(window) if pushed is not None else None
    for late in late_pushes(settings, window):
        LOG.warning("rows of %s to %s were pushed after it was ingested; run that window again", *late)
    own = {"pushed": digest, "forgotten": Forgotten(settings.root).digest}

    def build(out: Path) -> Built:
        # The list as it is once this stage has its turn: `forget` may have had it just before.
        return read_source(
            declared(settings, "ingest"), window, out, pushed if digest else None, Forgotten(settings.root)
        )

    return artifact_store(settings).build(
        "ingest",
        window,
        inputs={"source": source_digest(settings)} | {name: known for name, known in own.items() if known},
        builder=build,
        **_identity(settings, "ingest"),
    )


def validate(settings: Settings, window: Window = Window()) -> Manifest:
    """Great Expectations over the canonical tables: faulty rows to quarantine, faulty tables stop the run."""
    store = artifact_store(settings)
    source = store.get("ingest", window)
    refuse_empty(settings, window, source)
    clock = stage_clock(settings, window)
    before = of_one_type(settings, store, earlier_windows(settings, window), source)
    replaced = store.get("validate", window).path if store.has("validate", window) else None
    if replaced is not None and id_types_of(replaced) != id_types_of(source.path):
        replaced = None

    def build(out: Path) -> Built:
        from validation import validate_source

        return validate_source(
            source.path,
            out,
            declared(settings, "validate"),
            clock,
            run_id=source.digest[:16],
            window=window,
            earlier=[GateResults.read(manifest.path) for manifest in before],
            previous=before[-1].path if before else None,
            replaced=replaced,
        )

    return store.build(
        "validate",
        window,
        inputs={"ingest": source.digest, **_digests("earlier", before), **_clock_input(clock)},
        builder=build,
        **_identity(settings, "validate"),
    )


def features(settings: Settings, window: Window = Window()) -> Manifest:
    """Leak-free statistics and histories, one row per entity and event time."""
    store, clean = artifact_store(settings), clean_tables(settings, window)
    if missing := missing_before(window, covering(settings)):
        LOG.warning(missing)

    def build(out: Path) -> Built:
        from feature_repo import build_features

        return build_features(
            [m.path for m in clean],
            out,
            declared(settings, "features"),
            window.bounds_micros()[1],
            earlier=[m.path for m in made_before(settings, "features", clean)],
        )

    return store.build(
        "features",
        window,
        inputs=_digests("validate", clean),
        builder=build,
        **_identity(settings, "features"),
    )


def knowledge(settings: Settings, window: Window = Window()) -> Manifest:
    """Vectors and texts of users, items and scenarios, checked by their gate before they are published."""
    from knowledge import local_model

    store, clean, clock = artifact_store(settings), clean_tables(settings, window), stage_clock(settings, window)
    train_start = training_start(settings, clean)
    before = earlier_windows(settings, window, "knowledge")

    def build(out: Path) -> Built:
        from validation import validate_knowledge

        seen = declared(settings, "knowledge")
        built = run_of(seen, clean, clock, train_start, before[-1] if before else None).build(out)
        active = [m for m in clean if m.stage == "validate"][-1].file("interactions.parquet")
        previous = before[-1].path if before else None
        judged = previous if alike(settings, "knowledge", before[-1:]) else None
        run = clean[-1].digest[:16]
        gate = validate_knowledge(
            out, seen, clock, active, previous, out / DATA_DOCS, run, texts=_any_text(clean), judged=judged
        )
        _write(out / "gate.json", gate)
        return built

    return store.build(
        "knowledge",
        window,
        inputs={
            **_digests("validate", clean),
            **_digests("earlier", before[-1:]),
            **local_model(settings.knowledge, store.root / "cache"),
            "train_start": str(train_start),
            **_clock_input(clock),
        },
        builder=build,
        **_identity(settings, "knowledge"),
    )


def materialize(settings: Settings, window: Window = Window()) -> Manifest:
    """Write the newest values to the online store and publish the catalogue that serving polls."""
    store, clock, clean = artifact_store(settings), stage_clock(settings, window), clean_tables(settings, window)
    later = later_window(store, window)
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

        before = [m.path for m in earlier_windows(settings, window, "catalogue")]
        earlier = before[-1] if before else None
        return build_catalogue(declared(settings, "catalogue"), clock, out=out, earlier=earlier, **paths)

    catalogue = store.build(
        "catalogue",
        window,
        inputs=inputs,
        builder=build_catalogue,
        **_identity(settings, "catalogue"),
    )

    def build(out: Path) -> Built:
        from feature_repo import materialize as write_online
        from feature_repo import sample_online
        from validation import validate_online

        start, end = window.bounds_micros()
        seen = declared(settings, "materialize")
        written = write_online(seen, clock, start=start, end=end, newest=later is None, **paths)
        _write(out / "written.json", written)
        run = made["knowledge"].digest[:16]
        gate = validate_online(
            sample_online(seen, clock, newest=later is None, since=start or 0, **paths),
            seen,
            clock,
            out / DATA_DOCS,
            run,
        )
        _write(out / "run" / "gate.json", gate)
        return Built(rows=written, versions=dict(made["knowledge"].versions))

    manifest = store.build(
        "materialize",
        window,
        inputs=inputs,
        builder=build,
        **_identity(settings, "materialize"),
        still_valid=lambda found: _online_is_populated(settings, clock, found),
    )
    if later is not None:
        LOG.warning("a window to %s is online already: the catalogue and what pushes build on stay its own", later)
        return manifest
    publish_catalogue(store, catalogue)
    # What pushes build on from now on.
    PushPointer(
        sources=[str(m.path.relative_to(store.root)) for m in clean],
        knowledge=str(made["knowledge"].path.relative_to(store.root)),
        as_of=clock.now_micros(),
    ).publish(store.root)
    return manifest


def _any_text(clean: list[Manifest]) -> bool:
    """Whether an item of any window has a text."""
    return any(GateResults.read(m.path).tables["items"].facts.share_with_text for m in clean)


def later_window(store: ArtifactStore, window: Window) -> str | None:
    """The end of a materialised window that ends after this one: an old window that runs again takes nothing back."""
    ends = [m.window["end"] for m in store.all("materialize")]
    later = [end for end in ends if window.end is not None and end is not None and end > window.end.isoformat()]
    return max(later, default=None)


def publish_catalogue(store: ArtifactStore, catalogue: Manifest) -> None:
    """Let serving find it, and the newest one with text vectors of each earlier version: bundles roll forward and back."""
    newest = PublishedCatalogue(catalogue=str(catalogue.path.relative_to(store.root)), digest=catalogue.digest)
    held = CataloguePointer.read(store.root)
    CataloguePointer.after(held, newest, catalogue.versions["item_text"], KEPT_TEXTS).publish(store.root)


def dataset(settings: Settings, window: Window = Window()) -> Manifest:
    """The point-in-time training table, joined by Feast, stopped by its gate if it leaks."""
    store, clock, clean = artifact_store(settings), stage_clock(settings, window), clean_tables(settings, window)
    made = {"features": store.get("features", window), "knowledge": store.get("knowledge", window)}
    train_start = training_start(settings, clean)

    def build(out: Path) -> Built:
        from feature_repo import build_training_table
        from validation import validate_training_table

        seen = declared(settings, "dataset")
        built = build_training_table(
            seen,
            clock,
            sources=[m.path for m in clean],
            features=made["features"].path,
            knowledge=made["knowledge"].path,
            out=out,
            window=training_window(settings, window),
            train_start=train_start,
            earlier=[m.path for m in made_before(settings, "dataset", clean)],
        )
        known = made["knowledge"]
        gate = validate_training_table(out, seen, clock, known.path, out / DATA_DOCS, known.digest[:16])
        _write(out / "gate.json", gate)
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
        builder=build,
        **_identity(settings, "dataset"),
    )


def _identity(settings: Settings, stage: str) -> dict[str, Any]:
    """What `ArtifactStore.build` is told of the settings and the code of a stage."""
    return {"settings": shaping(settings, stage), "rooms": GRAPH[stage].rooms}


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
