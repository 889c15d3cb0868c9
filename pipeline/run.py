"""All stages in order."""

from __future__ import annotations

import time

from core import Manifest, Settings, Window, logger
from core.errors import SettingsError
from pipeline import learning, stages
from pipeline.report import report

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
    "report": report,
    "package": learning.package,
}
# Packaging builds an image's content; it is asked for by name, not at every refresh.
RUN_ORDER = tuple(name for name in STAGES if name != "package")


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
        raise SettingsError(f"--until {until!r} is not a stage; choose from {', '.join(RUN_ORDER)}")
    done: dict[str, Manifest] = {}
    for number, name in enumerate(RUN_ORDER, start=1):
        begin = time.monotonic()
        LOG.info("[%d/%d] %s", number, len(RUN_ORDER), name)
        done[name] = STAGES[name](settings, window)
        LOG.debug("%s took %.1f s", name, time.monotonic() - begin)
        if name == until:
            break
    return done
