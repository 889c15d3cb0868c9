"""The stages, each declared once: what it reads, what shapes it, how long it may take.

Everything that has to know the stages takes them from here: the order of a run, the commands, the schedule's tasks and
edges, the settings a stage may read, what `prune` keeps, the kill tests, the table in the documentation. Standard library
only, so that a scheduler may import it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A stage, or an artifact that is built within one.

    Args:
        name: also that of its command, its artifacts and its task.
        does: one sentence, for `--help` and the documentation.
        publishes: what its artifact holds, for the documentation.
        reads: names of the artifacts it is built from; with `*` those of all windows so far.
        settings: the fields that shape its output, as `section` or `section.field`. A builder can read no other.
        places: sections that may be read, too: they say where something lies, or what they shape is known from the artifacts
            that are read.
        rooms: whose code shapes its output.
        stops: when it stops a run, for the documentation.
        minutes: the longest it may take under the schedule.
        after: stages that it waits for beside those it reads.
        within: the stage that builds it, where it is none of its own.
        newest: whether the newest window's artifact stands for those of earlier ones, so that these can go.
        asked_for: by name alone; no part of a run.
    """

    name: str
    does: str
    publishes: str
    reads: tuple[str, ...]
    settings: tuple[str, ...]
    rooms: tuple[str, ...]
    stops: str = ""
    minutes: int = 0
    places: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    within: str = ""
    newest: bool = True
    asked_for: bool = False


GRAPH: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "ingest",
            does="Read raw logs into the canonical tables (interactions, users, items, scenarios).",
            publishes="the four canonical tables of the window",
            reads=(),
            settings=("data",),
            rooms=("core", "ingest"),
            stops="a file, column or cell cannot be read",
            minutes=120,
            newest=False,
        ),
        Stage(
            "validate",
            does="Check the tables with Great Expectations; faulty rows go to quarantine, faulty tables stop.",
            publishes="sound rows, `quarantine_*`, `results.json`, Data Docs",
            reads=("ingest",),
            settings=("validation", "data"),
            rooms=("core", "validation"),
            stops="a table is at fault, or too many rows are",
            minutes=60,
            newest=False,
        ),
        Stage(
            "features",
            does="Build leak-free statistics and histories, one row per entity and event time.",
            publishes="statistics and histories, one row per entity and event time",
            reads=("validate*",),
            settings=("features", "knowledge.lag"),
            rooms=("core", "feature_repo"),
            minutes=120,
        ),
        Stage(
            "knowledge",
            does="Build versioned vectors and texts of users, items and scenarios; the gate stops a broken matrix.",
            publishes="versioned vectors and texts, `gate.json`",
            reads=("validate*",),
            settings=(
                "knowledge",
                "data",
                "validation.max_coverage_drop",
                "validation.max_due_without_vector",
                "validation.max_lost_users",
                "validation.max_norm",
                "validation.max_relative_norm",
                "validation.max_same_vector",
                "validation.max_unchanged_vectors",
                "validation.max_zero_vectors",
                "validation.min_knowledge_coverage",
                "validation.min_vectors",
                "validation.vector_tolerance",
            ),
            rooms=("core", "knowledge", "validation"),
            stops="its gate finds a leak or a broken matrix",
            minutes=720,
        ),
        Stage(
            "catalogue",
            does="Collect the items that serving ranks.",
            publishes="items with statistics and text vectors, scenarios",
            reads=("validate*", "features", "knowledge"),
            settings=("features", "data.item_categorical", "data.item_dense"),
            rooms=("core", "feature_repo"),
            within="materialize",
        ),
        Stage(
            "materialize",
            does="Write the newest values to the online store and publish the catalogue.",
            publishes="the online store's newest values; the `catalogue` and its pointer",
            reads=("validate*", "features", "knowledge"),
            settings=(
                "features",
                "online",
                "registry",
                "data.user_categorical",
                "data.user_dense",
                "data.item_categorical",
                "data.item_dense",
                "knowledge.user_vectors",
                "knowledge.lag",
                "serving.explain",
                "validation.max_online_age",
                "validation.max_future",
            ),
            rooms=("core", "feature_repo", "validation"),
            stops="a store cannot be reached, or sampled keys are read back otherwise than written",
            minutes=240,
        ),
        Stage(
            "dataset",
            does="Join the point-in-time training table through Feast; the gate stops a leak.",
            publishes="the point-in-time training table, `gate.json`",
            reads=("validate*", "features", "knowledge"),
            settings=(
                "split",
                "features",
                "data",
                "knowledge.user_vectors",
                "knowledge.lag",
                "validation.allow_constant",
                "validation.constant_rows",
                "validation.largest_number",
                "validation.max_share_without_knowledge",
                "validation.one_class_rows",
            ),
            places=("online", "registry"),
            rooms=("core", "feature_repo", "validation"),
            stops="its gate finds a leak or lost rows",
            minutes=120,
        ),
        Stage(
            "train",
            does="Train the plain backbone and the same backbone with knowledge.",
            publishes="`bundle_plain`, `bundle_knowledge`, curves, predictions; those of counting and of plain without item text, too",
            reads=("dataset",),
            settings=("model", "train", "controls.without_text"),
            rooms=("core", "models"),
            stops="a split has no rows of both labels",
            minutes=720,
        ),
        Stage(
            "evaluate",
            does="Measure every system on the test rows; record the run in MLflow.",
            publishes="`metrics.json` of every system, `lift.json` (knowledge over plain), `ladder.json` (knowledge over each), "
            "`choice.json`; the run in MLflow",
            reads=("train",),
            settings=("promotion", "train.seed"),
            rooms=("core", "models"),
            minutes=120,
        ),
        Stage(
            "dataset_champion",
            does="Join the window's rows with the knowledge that the champion reads.",
            publishes="a training table",
            reads=("dataset",),
            settings=("split", "features", "data", "knowledge.user_vectors", "knowledge.lag"),
            rooms=("core", "feature_repo"),
            places=("online", "registry"),
            within="promote",
        ),
        Stage(
            "promote",
            does="Decide whether the new model goes live; write the verdict and why.",
            publishes="`verdict.json`; moves `serving/current.json` if it says so",
            reads=("train", "evaluate"),
            settings=("promotion", "train.seed"),
            rooms=("core", "models"),
            minutes=30,
            # A model must find its features online.
            after=("materialize",),
        ),
        Stage(
            "controls",
            does="Train placebos where they are due (controls.every): what is the gain of knowledge made of?",
            publishes="`controls.json`: the placebos, trained where they are due, else as they were measured last",
            reads=("train", "dataset", "knowledge"),
            settings=(
                "model",
                "train",
                "controls",
                "promotion.confidence",
                "promotion.resamples",
                "promotion.cold_rows",
            ),
            # As the knowledge artifact was built, on which the model was trained.
            places=("knowledge", "data"),
            rooms=("core", "models", "knowledge"),
            minutes=720,
            after=("promote",),
        ),
        Stage(
            "drift",
            does="Compare the window's features with those the champion was trained on.",
            publishes="`drift.json`",
            reads=("dataset",),
            settings=("validation.max_psi", "validation.max_kl", "validation.min_drift_rows"),
            rooms=("core", "validation"),
            within="report",
        ),
        Stage(
            "report",
            does="Write one HTML report that opens offline, and print its path.",
            publishes="`report.html`, one file that opens offline; `findings.json`, its sentences",
            reads=(
                "ingest",
                "validate",
                "features",
                "knowledge",
                "materialize",
                "dataset",
                "train",
                "evaluate",
                "promote",
                "controls",
            ),
            settings=(
                "data",
                "features",
                "split",
                "knowledge",
                "model",
                "train",
                "controls",
                "validation",
                "promotion",
            ),
            rooms=("core", "pipeline.report"),
            minutes=30,
        ),
        Stage(
            "package",
            does="Build a Bento of the service with the champion as its seed.",
            publishes="a Bento's name",
            reads=(),
            settings=(),
            rooms=("core", "bento"),
            asked_for=True,
        ),
    )
}


def run_order() -> tuple[str, ...]:
    """The stages of a run; each comes after all that it waits for."""
    return tuple(name for name, stage in GRAPH.items() if not stage.within and not stage.asked_for)


def waits_for(name: str) -> tuple[str, ...]:
    """The stages of a run that must have ended before a stage begins, without those that others of them wait for."""
    direct = _direct(name)
    implied = {earlier for one in direct for earlier in _all(one)}
    return tuple(one for one in direct if one not in implied)


def newest_alone() -> tuple[str, ...]:
    """Artifacts of which the newest window's stands for the earlier ones, in the order of a run."""
    return tuple(name for name, stage in GRAPH.items() if stage.newest)


def built_within() -> tuple[str, ...]:
    """Artifacts that are built within another stage."""
    return tuple(name for name, stage in GRAPH.items() if stage.within)


def _direct(name: str) -> tuple[str, ...]:
    stage = GRAPH[name]
    return tuple(dict.fromkeys(_plain((*stage.reads, *stage.after))))


def _all(name: str) -> set[str]:
    found = set(_direct(name))
    return found.union(*(_all(one) for one in found)) if found else found


def _plain(names: Iterable[str]) -> list[str]:
    return [name.removesuffix("*") for name in names]
