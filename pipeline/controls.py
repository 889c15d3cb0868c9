"""The stage `controls`: placebos of the model with knowledge, trained now and then, so that every report can say what the gain is of.

It stands after `promote`: no model waits for its placebos.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import ArtifactStore, Built, Manifest, Settings, Window, logger, progress
from core.contracts.results import Controls, Placebo
from core.digest import canonical_json
from pipeline.declared import declared, shaping
from pipeline.graph import GRAPH
from pipeline.knowledge_run import run_of
from pipeline.windows import artifact_store, clean_tables, stage_clock, training_start

if TYPE_CHECKING:
    from knowledge import Run
    from models import TrainingData

LOG = logger("pipeline")


def controls(settings: Settings, window: Window = Window()) -> Manifest:
    """Train the placebos where they are due; else pass on what the last ones showed, with the number of runs since."""
    store = artifact_store(settings)
    source, table, known = (store.get(name, window) for name in ("train", "dataset", "knowledge"))
    seen, own = declared(settings, "controls"), shaping(settings, "controls")
    earlier = None if seen.controls.every == 0 else _earlier(store, window, source, own, seen.controls.every)

    def run() -> Run:
        clean = clean_tables(settings, window)
        return run_of(seen, clean, stage_clock(settings, window), training_start(settings, clean))

    def build(out: Path) -> Built:
        before = store.find("controls", digest=earlier) if earlier is not None else []
        if before:
            body = Controls.read(before[0].path)
            body.model_copy(update={"runs_ago": body.runs_ago + 1}).write(out)
            return Built()
        found = {} if seen.controls.every == 0 else _measure(seen, source, table, known, out, run)
        Controls(runs_ago=0, window=window.as_json(), placebos=found).write(out)
        return Built(rows={name: placebo.against.overall.rows for name, placebo in found.items()})

    return store.build(
        "controls",
        window,
        inputs={"train": source.digest} | ({"earlier": earlier} if earlier is not None else {}),
        settings=own,
        rooms=GRAPH["controls"].rooms,
        builder=build,
    )


def _earlier(store: ArtifactStore, window: Window, source: Manifest, own: dict[str, Any], every: int) -> str | None:
    """The digest of the artifact whose placebos still count; None where new ones are due.

    They are due at the first run, after `every` runs, and when the model's settings have changed. A run that is repeated decides
    as it did.
    """
    known = [m for m in store.find("controls") if m.settings == json.loads(canonical_json(own))]
    for mine in known:
        if mine.window == window.as_json() and mine.inputs["train"] == source.digest:
            return mine.inputs.get("earlier")
    newest = max(known, key=lambda m: m.published_ns, default=None)
    if newest is None or Controls.read(newest.path).runs_ago + 1 >= every:
        return None
    return newest.digest


def _measure(
    settings: Settings, source: Manifest, table: Manifest, known: Manifest, out: Path, run: Callable[[], Run]
) -> dict[str, Placebo]:
    """Train each placebo and compare the model with knowledge with it, on the same test rows."""
    from models import compare, evaluate, load_bundle, load_dataset, predict, train

    ours = pq.read_table(source.file("predictions_knowledge.parquet"))
    ours = ours.filter(pc.equal(ours["split"], "test"))
    found, judged = {}, settings.promotion
    for name, data in progress(_placebos(settings, load_dataset(table.path), known, run), unit="placebos"):
        work = out / "run" / name
        train(data, settings.model, settings.train, work, name=name)
        theirs = predict(load_bundle(work), data, "test")
        shutil.rmtree(work)
        metrics, against = evaluate(theirs, judged.cold_rows), compare(theirs, ours, judged, settings.train.seed)
        found[name] = Placebo(metrics=metrics, against=against)
        gain = found[name].against.overall.auc
        LOG.info("controls: %s has a test AUC of %.4f, knowledge %.4f", name, gain.champion, gain.challenger)
    return found


def _placebos(
    settings: Settings, data: TrainingData, known: Manifest, run: Callable[[], Run]
) -> Iterator[tuple[str, TrainingData]]:
    """The tables to train on, by name; none where there is nothing to exchange."""
    from models import common_scenario, has_text, of_other_users, with_vectors
    from models.ranker import user_vectors_read

    kinds = [kind for kind in user_vectors_read(settings.model) if kind in data.spec.vectors]
    wanted, seed = settings.controls.placebos, settings.train.seed
    if "shuffled_titles" in wanted and has_text(data):
        vectors = run().shuffled_titles(known.path, common_scenario(data), seed)
        # Prompts would have to be read anew; the vectors of another user's say as little about this one.
        rest = [kind for kind in kinds if kind not in vectors]
        table = of_other_users(data, rest, seed) or data
        yield "shuffled_titles", with_vectors(table, vectors)
    if "other_user" in wanted and (swapped := of_other_users(data, kinds, seed)) is not None:
        yield "other_user", swapped
