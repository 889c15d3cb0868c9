"""All stages in order."""

from __future__ import annotations

from core import Manifest, Settings, Window, logger
from core.errors import SettingsError
from core.pace import Run, duration, whole
from core.words import did_you_mean
from pipeline import learning, stages
from pipeline.controls import controls
from pipeline.estimate import planned, remember
from pipeline.graph import run_order
from pipeline.profile import profile, surprises
from pipeline.report import report
from pipeline.windows import artifact_store, stage_clock

LOG = logger("pipeline")
STAGES = {
    "ingest": stages.ingest,
    "validate": stages.validate,
    "features": stages.features,
    "knowledge": stages.knowledge,
    "materialize": stages.materialize,
    "dataset": stages.dataset,
    "train": learning.train,
    "evaluate": learning.evaluate,
    "promote": learning.promote,
    "controls": controls,
    "report": report,
    "package": learning.package,
}
RUN_ORDER = run_order()


def run_all(settings: Settings, window: Window, until: str | None = None) -> dict[str, Manifest]:
    """Run every stage for a window; what is up to date is left alone.

    Args:
        settings: of the project.
        window: event time `[start, end)`.
        until: the last stage to run; None runs all.

    Raises:
        SettingsError: `until` names no stage.
    """
    if until is not None and until not in RUN_ORDER:
        hint = did_you_mean(until, RUN_ORDER)
        raise SettingsError(f"--until {until!r} is not a stage{hint}; choose from {', '.join(RUN_ORDER)}")
    order = RUN_ORDER if until is None else RUN_ORDER[: RUN_ORDER.index(until) + 1]
    done: dict[str, Manifest] = {}
    with whole(planned(settings, order)) as run:
        for number, name in enumerate(order, start=1):
            LOG.info("[%d/%d] %s", number, len(order), name)
            done[name] = _worked(run, name, settings, window)
            if name == "ingest":
                _warn(settings, window, done[name])
                run.plan(planned(settings, order[number:], done[name].rows))
        taken = run.elapsed
    LOG.info("100 %% done in %s", duration(taken))
    return done


def _warn(settings: Settings, window: Window, read: Manifest) -> None:
    """Say before the long stages what no gate will stop, though nobody will like it; once a window."""
    if read.reused and artifact_store(settings).has("report", window):
        return
    clock = stage_clock(settings, window)
    for remark in surprises(profile(settings, read.path), settings, clock):
        LOG.warning("%s; %s", remark.seen, remark.mend)


def run_stage(settings: Settings, window: Window, name: str) -> Manifest:
    """Run one stage, with the progress that a whole run has."""
    with whole(planned(settings, (name,))) as run:
        return _worked(run, name, settings, window)


def _worked(run: Run, name: str, settings: Settings, window: Window) -> Manifest:
    run.begin(name)
    manifest = STAGES[name](settings, window)
    seconds = run.end(worked=not manifest.reused)
    if not manifest.reused:
        remember(settings, name, seconds)
    LOG.info("%s took %s", name, duration(seconds))
    return manifest
