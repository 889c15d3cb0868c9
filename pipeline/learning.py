"""The stages that learn and decide: train, evaluate, promote, package."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import ArtifactStore, Built, Manifest, Settings, Window, logger, progress
from core.contracts.bundle_spec import BundleSpec
from core.contracts.kinds import by_name
from core.contracts.pointers import BundlePointer, Release
from core.contracts.results import (
    Choice,
    Curves,
    DrawnNegatives,
    Ladder,
    Lift,
    Metrics,
    OverCounting,
    Promotion,
    System,
    VerdictDetails,
)
from core.digest import sha256_file
from core.errors import MissingArtifactError
from core.segments import schema_of
from core.training_table import read_rows, table_of
from pipeline.declared import declared, shaping
from pipeline.graph import GRAPH
from pipeline.windows import artifact_store, stage_clock

if TYPE_CHECKING:
    from models import TrainingData

LOG = logger("pipeline")
# The backbone alone, and the same backbone with knowledge: every run trains both, so that the lift is always measured.
SYSTEMS: tuple[System, ...] = ("plain", "knowledge")
# Smoothed rates, nothing trained: what any model has to beat.
COUNTING = "counting"
# The backbone alone, without item text: what text brings before any knowledge of users.
WITHOUT_TEXT = "without_text"
ROLLED_BACK = "rolled back"


def train(settings: Settings, window: Window = Window()) -> Manifest:
    """Train the plain backbone and the same backbone with knowledge on the window's training table."""
    store, seen = artifact_store(settings), declared(settings, "train")
    source = store.get("dataset", window)

    def build(out: Path) -> Built:
        from models import counting, has_text, load_bundle, load_dataset, plain, predict, without_text
        from models import train as fit

        data = load_dataset(source.path)
        curves, rows = {}, {}
        for name in progress(SYSTEMS, unit="systems"):
            model = plain(seen.model) if name == "plain" else seen.model
            report = fit(data, model, seen.train, out / f"bundle_{name}", name=name)
            curves[name] = report.curves
            scored = pa.concat_tables(
                [predict(load_bundle(out / f"bundle_{name}"), data, split) for split in ("validation", "test")]
            )
            pq.write_table(scored, out / f"predictions_{name}.parquet", compression="zstd")
            rows[f"scored_{name}"] = scored.num_rows
        others = {COUNTING: counting(data, "test")}
        if seen.controls.without_text and has_text(data):
            bare, work = without_text(data), out / "run" / WITHOUT_TEXT
            fit(bare, plain(seen.model), seen.train, work, name=WITHOUT_TEXT)
            others[WITHOUT_TEXT] = predict(load_bundle(work), bare, "test")
            shutil.rmtree(work)
        for other, scored in others.items():
            pq.write_table(scored, out / f"predictions_{other}.parquet", compression="zstd")
        Curves(**curves).write(out)
        pq.write_table(_seen(data.rows), out / "seen.parquet", compression="zstd")
        return Built(rows=rows, versions={**source.versions, "dataset": source.digest})

    return store.build(
        "train",
        window,
        inputs={"dataset": source.digest},
        settings=shaping(settings, "train"),
        rooms=GRAPH["train"].rooms,
        builder=build,
    )


def evaluate(settings: Settings, window: Window = Window()) -> Manifest:
    """Metrics of every system on the test rows, differences with intervals, and the run in MLflow."""
    store, seen = artifact_store(settings), declared(settings, "evaluate")
    source = store.get("train", window)

    def build(out: Path) -> Built:
        from models import choose, compare
        from models import evaluate as measure

        others = (
            [COUNTING, WITHOUT_TEXT] if source.file(f"predictions_{WITHOUT_TEXT}.parquet").is_file() else [COUNTING]
        )
        names = (*others, *SYSTEMS)
        tables = {name: pq.read_table(source.file(f"predictions_{name}.parquet")) for name in names}
        test = {name: table.filter(pc.equal(table["split"], "test")) for name, table in tables.items()}
        spec = BundleSpec.read(source.path / "bundle_knowledge")
        drawn = {"negatives": DrawnNegatives.model_validate(spec.negatives)} if spec.negatives else {}
        every = {name: measure(table, seen.promotion.cold_rows) for name, table in test.items()}
        metrics = Metrics(**{name: found.model_copy(update=drawn) for name, found in every.items()})
        over = {
            name: compare(test[name], test["knowledge"], seen.promotion, seen.train.seed) for name in (*others, "plain")
        }
        lift = Lift(**dict(over["plain"]))
        choice = choose(lift, metrics.plain, seen.promotion)
        gain = compare(test[COUNTING], test[choice.system], seen.promotion, seen.train.seed)
        for found in (metrics, lift, choice, OverCounting(**dict(gain)), Ladder(**over)):
            _write(out / found.FILE, found.as_json())
        return Built(rows={"test": test["plain"].num_rows}, versions=dict(source.versions))

    manifest = store.build(
        "evaluate",
        window,
        inputs={"train": source.digest},
        settings=shaping(settings, "evaluate"),
        rooms=GRAPH["evaluate"].rooms,
        builder=build,
    )
    _track(settings, source, manifest)
    return manifest


def promote(settings: Settings, window: Window = Window()) -> Manifest:
    """Decide whether the window's model goes live, write the verdict, and move the pointer that serving polls."""
    store, clock = artifact_store(settings), stage_clock(settings, window)
    source, scores = store.get("train", window), store.get("evaluate", window)
    champion = BundlePointer.read(store.root)
    choice = Choice.read(scores.path)
    bundle = str((source.path / f"bundle_{choice.system}").relative_to(store.root))
    if champion is not None and champion.bundle == bundle:
        LOG.info("promote: %s is the champion already, nothing to do", bundle)
        _alias(settings, store.root / bundle)
        return dataclasses.replace(store.get("promote", window), reused=True)

    if champion is not None and was_rolled_back(champion, bundle):
        LOG.warning("promote: %s was rolled back and stays so; `llm4msr rollback` again brings it back", bundle)
        return dataclasses.replace(store.get("promote", window), reused=True)

    def build(out: Path) -> Built:
        from models import first_verdict, promotion_verdict

        seen = declared(settings, "promote")

        challenger = _test_rows(source, choice.system)
        rival = None
        if champion is not None and _has_other_ids(store, champion, window):
            LOG.warning(
                "promote: the champion's ids are of another type (data.ids): the new model is judged as a first one"
            )
        elif champion is not None:
            rival, challenger = _champion_scores(settings, champion, source, window, challenger)
        if champion is None or rival is None:
            verdict = first_verdict(Metrics.read(scores.path), choice.system, seen.promotion)
        else:
            age = clock.now() - champion.time
            span = _span(store.get("dataset", window))
            verdict = promotion_verdict(rival, challenger, seen.promotion, age, seen.train.seed, span)
        told = Promotion(
            promote=verdict.promote,
            reason=verdict.reason,
            details=VerdictDetails.model_validate(verdict.details),
            choice=choice,
            challenger=bundle,
            champion=champion and champion.bundle,
        )
        _write(out / told.FILE, told.as_json())
        return Built(rows={"rows": challenger.num_rows}, versions={"promote": verdict.promote})

    manifest = store.build(
        "promote",
        window,
        inputs={"train": source.digest, "evaluate": scores.digest, "champion": champion.digest if champion else ""},
        settings=shaping(settings, "promote"),
        rooms=GRAPH["promote"].rooms,
        builder=build,
    )
    verdict = Promotion.read(manifest.path)
    LOG.info("promote: of this run, %s may go live", choice.reason)
    LOG.info("promote: %s", verdict.reason)
    if verdict.promote:
        _point(settings, bundle, source, champion, verdict.reason, clock.now())
    return manifest


def roll_back(settings: Settings) -> Release:
    """Make the previous champion the current one again; running services swap to it within a poll.

    Raises:
        MissingArtifactError: there is no previous champion.
    """
    store = artifact_store(settings)
    current = BundlePointer.read(store.root)
    if current is None or current.previous is None:
        raise MissingArtifactError(f"no previous champion is recorded in {BundlePointer.path(store.root)}")
    back = current.previous.model_copy(update={"reason": ROLLED_BACK})
    BundlePointer.of(back, previous=current.release).publish(store.root)
    _alias(settings, back.folder(store.root))
    return back


def _span(table: Manifest) -> dt.timedelta:
    """From the first to the last row of a training table."""
    times = pc.min_max(read_rows(table.path, ["event_timestamp"])["event_timestamp"])
    return dt.timedelta(microseconds=times["max"].value - times["min"].value)


def was_rolled_back(champion: BundlePointer, bundle: str) -> bool:
    """Whether a person has taken this bundle back: a run that does nothing new must not bring it live again."""
    previous = champion.previous
    return champion.reason == ROLLED_BACK and previous is not None and previous.bundle == bundle


def package(settings: Settings, window: Window = Window()) -> Manifest:
    """Build a Bento of the service with the current bundle as its seed."""
    store = artifact_store(settings)
    champion = BundlePointer.read(store.root)
    if champion is None:
        raise MissingArtifactError(f"no champion yet ({BundlePointer.path(store.root)}); run `llm4msr promote` first")
    from bento.package import LOCK, ROOMS, Packaged, build_bento, has_bento

    def build(out: Path) -> Built:
        tag = build_bento(settings, champion.folder(store.root), out / "run")
        LOG.info("packaged as %s", tag)
        # Every build has a tag of its own, so it is no part of what makes two packages the same.
        (out / "run" / "tag").write_text(tag)
        Packaged(tag_name=tag.split(":")[0], bundle=champion.bundle).write(out)
        return Built(versions={"bundle": champion.digest})

    return store.build(
        "package",
        window,
        inputs={"bundle": champion.digest, "lock": sha256_file(LOCK)},
        settings={"project": settings.project},
        rooms=ROOMS,
        builder=build,
        still_valid=lambda manifest: has_bento((manifest.path / "run" / "tag").read_text()),
    )


def _point(
    settings: Settings,
    bundle: str,
    source: Manifest,
    champion: BundlePointer | None,
    reason: str,
    now: dt.datetime,
) -> None:
    store = artifact_store(settings)
    # After a roll-back the higher number is the previous one's; no two bundles may share a number.
    known = [champion, champion and champion.previous]
    release = Release(
        bundle=bundle,
        digest=source.digest,
        model=settings.model.name,
        version=max((one.version for one in known if one is not None), default=0) + 1,
        promoted_at=now.isoformat(),
        reason=reason,
    )
    BundlePointer.of(release, previous=champion.release if champion else None).publish(store.root)
    _alias(settings, release.folder(store.root))


def _seen(rows: pa.Table) -> pa.Table:
    """When each user was last seen in training or validation: [user_id, seen]."""
    rows = rows.select(["user_id", "split", "event_timestamp"])
    used = rows.filter(pc.is_in(rows["split"], pa.array(["train", "validation", "warmup"])))
    grouped = used.group_by("user_id").aggregate([("event_timestamp", "max")])
    return grouped.rename_columns(["user_id", "seen"]).sort_by("user_id")


def _test_rows(source: Manifest, system: str) -> pa.Table:
    table = pq.read_table(source.file(f"predictions_{system}.parquet"))
    return table.filter(pc.equal(table["split"], "test"))


def _has_other_ids(store: ArtifactStore, champion: BundlePointer, window: Window) -> bool:
    """Whether the champion's users or items have ids of another type than today's: it can score none of their rows."""
    theirs = BundleSpec.read(champion.folder(store.root)).id_types
    today = schema_of(table_of(store.get("dataset", window).path))
    return any(str(today.field(key).type) != kind for key, kind in theirs.items())


def _champion_scores(
    settings: Settings, champion: BundlePointer, source: Manifest, window: Window, ours: pa.Table
) -> tuple[pa.Table, pa.Table]:
    """Scores of champion and challenger on the same rows: those that neither was trained or validated on."""
    from models import load_bundle, load_dataset, predict

    store = artifact_store(settings)
    folder = champion.folder(store.root)
    bundle = load_bundle(folder)
    data = scorable(load_dataset(_champion_dataset(settings, folder, source, window)), bundle.spec)
    rival = predict(bundle, data, "test")
    seen = pq.read_table(folder.parent / "seen.parquet")
    times = (
        ours.select(["row_id", "user_id"])
        .join(data.rows.select(["row_id", "event_timestamp"]), "row_id", join_type="inner")
        .join(seen, "user_id", join_type="left outer")
    )
    fresh = times.filter(pc.or_kleene(pc.is_null(times["seen"]), pc.greater(times["event_timestamp"], times["seen"])))
    keep = fresh["row_id"]
    pick = [table.filter(pc.is_in(table["row_id"], keep)).sort_by("row_id") for table in (rival, ours)]
    return pick[0], pick[1]


def scorable(data: TrainingData, spec: BundleSpec) -> TrainingData:
    """The rows a bundle can score: of scenarios it knows; columns that are declared no longer are unknown to it."""
    rows = data.rows.filter(pc.is_in(data.rows["scenario"], pa.array(spec.scenarios, pa.string())))
    texts = dict.fromkeys((*spec.user_categorical, *spec.item_categorical), pa.string())
    numbers = dict.fromkeys((*spec.user_dense, *spec.item_dense), pa.float64())
    for name, kind in (texts | numbers).items():
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.nulls(rows.num_rows, kind))
    return dataclasses.replace(data, rows=rows)


def _champion_dataset(settings: Settings, bundle: Path, source: Manifest, window: Window) -> Path:
    """The window's training table with the knowledge versions that the champion reads.

    Where the versions are today's, that is the window's own table. Otherwise the same rows are joined once more with
    the newest knowledge artifact of the champion's versions, so that each model sees its own feature service.
    """
    store = artifact_store(settings)
    today = store.get("dataset", window)
    reads = BundleSpec.read(bundle).versions
    if all(today.versions.get(kind) == version for kind, version in reads.items()):
        return today.path
    from feature_repo import build_training_table
    from pipeline.windows import clean_tables, training_start, training_window

    clean = clean_tables(settings, window)
    matching = store.find("knowledge", versions=by_name(reads))
    if not matching:
        raise MissingArtifactError(
            f"no knowledge artifact holds the champion's versions {reads}; it cannot be compared"
        )
    knowledge = matching[-1].path
    rejoined = store.build(
        "dataset_champion",
        window,
        inputs={"dataset": today.digest, "versions": json.dumps(reads, sort_keys=True)},
        settings=shaping(settings, "dataset_champion"),
        rooms=GRAPH["dataset_champion"].rooms,
        builder=lambda out: build_training_table(
            declared(settings, "dataset_champion"),
            stage_clock(settings, window),
            sources=[m.path for m in clean],
            features=store.get("features", window).path,
            knowledge=knowledge,
            out=out,
            window=training_window(settings, window),
            train_start=training_start(settings, clean),
        ),
    )
    return rejoined.path


def _track(settings: Settings, source: Manifest, scores: Manifest) -> None:
    """Record both systems in MLflow and register the one that may go live; the same bundle is recorded once."""
    from pipeline import tracking

    metrics, choice = Metrics.read(scores.path), Choice.read(scores.path)
    curves = Curves.read(source.path).as_json()
    for name in SYSTEMS:
        bundle = source.path / f"bundle_{name}"
        params = {**settings.section("model", "train"), "system": name, "dataset": source.versions.get("dataset", "")}
        run = tracking.log_run(settings, name, params, metrics.chosen(name).overall.model_dump(), curves[name], bundle)
        if name == choice.system:
            tracking.register(settings, bundle, run, settings.model.name)


def _alias(settings: Settings, bundle: Path) -> None:
    from pipeline import tracking

    version = tracking.register(settings, bundle, None, settings.model.name)
    tracking.set_alias(settings, settings.model.name, "champion", version)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, default=str) + "\n", encoding="utf-8")
