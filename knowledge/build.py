"""The stage `knowledge`: from the validated log to versioned, point-in-time vectors and texts."""

from __future__ import annotations

from pathlib import Path

from core import Built, logger
from core.contracts.knowledge_versions import KnowledgeVersions
from core.pace import portion
from knowledge.kinds import scenarios
from knowledge.kinds.items import read_items, write_items
from knowledge.kinds.users import Users
from knowledge.log.catalogue import write_items_of
from knowledge.open_run import OpenRun
from knowledge.texts import summary

# A text that the reasoner reads takes about as long as so many rows of the log, with the packaged reasoner.
_ROWS_A_TEXT = 100
_SAMPLE = 1000

LOG = logger("knowledge")


def build(run: OpenRun, out: Path) -> Built:
    """Build every kind; see `Run.build`."""
    with portion(_share_of_items(run)):
        items = read_items(run)
    if not items.known.any():
        LOG.warning(
            "no item has a text (data.item_text: %s): there are no item vectors, and no user vectors or texts, which are "
            "made from them; the model learns from ids, statistics and the sentences of the scenarios",
            ", ".join(run.data.item_text) or "none",
        )
    rows, versions = {}, {}
    rows["item_text"], versions["item_text"] = write_items(run, items, out)
    # Candidates as of the start of training: a text that was published must not change under a later window.
    neighbours = summary.Neighbours(items.raw, items.known, run.log.items_before(run.train_start))
    users = Users(run, items, neighbours)
    rows |= users.write(out)
    versions |= {name: kind.version for name, kind in users.kinds.items()}
    statistics = scenarios.count(run, run.moments)
    rows["scenario"], versions["scenario"], newest = scenarios.write_scenarios(run, statistics, out)
    rows["scenario_text"] = scenarios.write_scenario_texts(
        run, statistics, newest, neighbours, versions["scenario"], out
    )
    KnowledgeVersions(**versions).write(out)
    made_of = run.made_of.model_copy(update={"users": users.recipe})
    same = run.earlier is not None and run.earlier.made_of.items == made_of.items
    write_items_of(run.items, out, run.earlier.folder if run.earlier is not None and same else None)
    made_of.write(out)
    return Built(rows=rows, versions=versions)


def _share_of_items(run: OpenRun) -> float:
    """What part of the stage's time goes into reading item texts, as far as a sample of them and the users tell."""
    texts = [text for text in run.catalogue.texts if text]
    sample = texts[:: max(1, len(texts) // _SAMPLE)]
    new = len(texts) * (1.0 - run.cached().share_known(sample))
    return new / (new + run.log.rows / _ROWS_A_TEXT + 1.0)
