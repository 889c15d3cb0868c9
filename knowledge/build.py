"""The stage `knowledge`: from the validated log to versioned, point-in-time vectors and texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core import ArtifactStore, Built, Clock, Settings, logger
from core.pace import portion
from core.store import write_json
from knowledge.engines import read_everything
from knowledge.kinds import scenarios
from knowledge.kinds.items import read_items, write_items
from knowledge.kinds.users import Users
from knowledge.open_run import Work, marks_of, open_work, warn_of_missing_parts
from knowledge.texts import summary

# A text that the reasoner reads takes about as long as so many rows of the log, with the packaged reasoner.
_ROWS_A_TEXT = 100
_SAMPLE = 1000

LOG = logger("knowledge")


def build_knowledge(
    sources: Sequence[Path],
    out: Path,
    settings: Settings,
    clock: Clock,
    *,
    train_start: int,
    cache: Path,
    compressors: ArtifactStore,
    window_ends: Sequence[int] = (),
) -> Built:
    """Build every knowledge kind the settings ask for.

    Args:
        sources: folders of validated tables, in order of their windows.
        out: where to write; see `docs/rooms/knowledge.md` for the files.
        settings: `data` and `knowledge` count.
        clock: rows at or after its now are not read.
        train_start: microseconds; compressors see rows before it only.
        cache: reasoner outputs by prompt hash, the log in order of users, users' tables; outlives artifacts.
        compressors: keeps fitted compressors, so that later windows use the same.
        window_ends: microseconds; a scenario vector is also made at each that lies after `train_start`.

    Returns:
        Rows per folder and the version per kind.

    Raises:
        UserError: input or settings must change; the message says how.
    """
    warn_of_missing_parts(marks_of(sources, settings, cache))
    settings = read_everything(
        sources, settings, clock, train_start=train_start, cache=cache, store=compressors, window_ends=window_ends
    )
    moments = scenarios.moments_of(train_start, window_ends)
    with open_work(sources, settings, clock, train_start, cache, compressors) as work:
        with portion(_share_of_items(work)):
            items = read_items(work)
        if not items.known.any():
            LOG.warning(
                "no item has a text (data.item_text: %s): there are no item vectors, and no user vectors or texts, which are "
                "made from them; the model learns from ids, statistics and the sentences of the scenarios",
                ", ".join(settings.data.item_text) or "none",
            )
        rows, versions = {}, {}
        rows["item_text"], versions["item_text"] = write_items(work, items, out)
        # Candidates as of the start of training: a text that was published must not change under a later window.
        neighbours = summary.Neighbours(items.raw, items.known, work.log.items_before(train_start))
        users = Users(work, items, neighbours)
        rows |= users.write(out)
        versions |= {name: kind.version for name, kind in users.kinds.items()}
        statistics = scenarios.count(work, moments)
        rows["scenario"], versions["scenario"], newest = scenarios.write_scenarios(work, statistics, moments, out)
        rows["scenario_text"] = scenarios.write_scenario_texts(
            work, statistics, moments[-1], newest, neighbours, versions["scenario"], out
        )
    write_json(out / "versions.json", versions)
    return Built(rows=rows, versions=versions)


def _share_of_items(work: Work) -> float:
    """What part of the stage's time goes into reading item texts, as far as a sample of them and the users tell."""
    texts = [text for text in work.catalogue.texts if text]
    sample = texts[:: max(1, len(texts) // _SAMPLE)]
    new = len(texts) * (1.0 - work.cached().share_known(sample))
    return new / (new + work.log.rows / _ROWS_A_TEXT + 1.0)
