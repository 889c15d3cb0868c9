"""The run of knowledge that belongs to a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from core import Clock, Manifest, Settings, Window, as_utc, to_micros
from pipeline.windows import artifact_store, clean_tables, stage_clock, training_start

if TYPE_CHECKING:
    from knowledge import Run


def knowledge_run(settings: Settings, window: Window) -> Run:
    """Knowledge of all windows up to this one's end.

    Raises:
        MissingArtifactError: this window was not validated yet.
    """
    clean = clean_tables(settings, window)
    return run_of(settings, clean, stage_clock(settings, window), training_start(settings, clean))


def run_of(
    settings: Settings, clean: Sequence[Manifest], clock: Clock, train_start: int, earlier: Manifest | None = None
) -> Run:
    """The same of validated tables that are known, and of the artifact of the window before."""
    from knowledge import Run

    store, now = artifact_store(settings), clock.now_micros()
    return Run(
        sources=[m.path for m in clean],
        settings=settings.knowledge,
        data=settings.data,
        clock=clock,
        train_start=train_start,
        cache=store.root / "cache",
        compressors=store,
        # A replayed clock may stand before the window's end: nothing is built from later than its now.
        earlier=None if earlier is None else earlier.path,
        window_ends=[min(to_micros(as_utc(m.window["end"])), now) for m in clean if m.window["end"]],
    )
