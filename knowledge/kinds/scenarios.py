"""Scenario vectors and texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from core import logger
from core.digest import sha256_text
from knowledge.open_run import FOLDERS, OpenRun
from knowledge.storage.compressor import FILE
from knowledge.storage.matrix import IndexedMatrix, Rows, write_text
from knowledge.texts import prompts, summary
from knowledge.texts.scenario_counts import LogStatistics, count_scenarios

LOG = logger("knowledge")


def moments_of(train_start: int, window_ends: Sequence[int]) -> list[int]:
    """When scenario vectors are made: at the start of training and at each window's end after it."""
    return [train_start, *sorted({end for end in window_ends if end > train_start})]


def count(run: OpenRun, moments: Sequence[int]) -> LogStatistics:
    """The counts that scenario prompts tell."""
    return count_scenarios(run.log, run.catalogue, moments)


def prompts_at(run: OpenRun, statistics: LogStatistics, moment: int) -> prompts.ScenarioPrompts:
    """The prompts of all scenarios at a moment."""
    template, most = run.template("scenario_v2"), run.settings.max_tokens
    return prompts.scenario_prompts(statistics.at(moment), run.catalogue, template, run.reasoner, most)


def scenario_texts(run: OpenRun, statistics: LogStatistics) -> list[str]:
    """The prompts of all scenarios at each of the run's moments."""
    return [text for moment in run.moments for text in prompts_at(run, statistics, moment).texts]


def write_scenarios(run: OpenRun, statistics: LogStatistics, out: Path) -> tuple[int, str, np.ndarray]:
    """Vectors standardised over the scenarios at the start of training.

    Where prompts tell each other's sentences, a new sentence makes a new version. Where there are too many scenarios for
    that, it changes its own scenario's vector and no other's, so the version stays.

    Returns:
        Rows, version and the newest raw vectors, float16 [scenarios, d].
    """
    moments = run.moments
    names = [name for name, _, _ in run.catalogue.scenarios]
    written = [prompts_at(run, statistics, moment) for moment in moments]
    texts = [text for one in written for text in one.texts]
    if left_out := written[-1].left_out(run.settings.max_tokens):
        LOG.warning("%s", left_out)
    raw = run.encode(texts, "encoding scenarios")
    recipe = {
        "template": run.template("scenario_v2").digest,
        "reasoner": run.reasoner.identity,
        "scenarios": run.catalogue.scenarios if written[0].described.any() else names,
    }
    compressor, version = run.compressor("scenario", recipe, lambda: raw[: len(names)], None)
    keys = pa.array(names * len(moments), pa.string())
    rows = Rows("scenario", keys, np.repeat(np.array(moments, dtype=np.int64), len(names)), run.lag("scenario"))
    order = np.array(sorted(range(len(texts)), key=lambda i: (rows.watermarks[i], keys[i].as_py())), dtype=np.int64)
    folder, about = out / FOLDERS["scenario"], ("scenario", version, run.lag("scenario"), compressor.dim)
    hashes = pa.array([sha256_text(texts[i]) for i in order], pa.string())
    with IndexedMatrix(folder, ("scenario", pa.string()), *about, run.earlier_of("scenario")) as matrix:
        matrix.write(rows.take(order), hashes, compressor.apply(raw[order]))
    compressor.save(folder / FILE)
    return len(order), version, raw[-len(names) :]


def write_scenario_texts(
    run: OpenRun,
    statistics: LogStatistics,
    raw: np.ndarray,
    neighbours: summary.Neighbours,
    version: str,
    out: Path,
) -> int:
    """A summary of each scenario at its newest watermark."""
    moment = run.moments[-1]
    wide = raw.astype(np.float64)
    # Prompts of scenarios are much alike; only what sets one apart can be near to an item.
    near = neighbours.find(wide, wide.mean(axis=0)) if len(wide) > 1 else np.zeros((len(wide), 0), np.int64)
    texts = summary.scenario_summaries(statistics, run.catalogue, run.template("summary_v1"), moment, near)
    names = [name for name, _, _ in run.catalogue.scenarios]
    order = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)
    moments = np.full(len(names), moment, dtype=np.int64)
    rows = Rows("scenario", pa.array(names, pa.string()), moments, run.lag("scenario"))
    told = pa.array([texts[i] for i in order], pa.string())
    versions, source = pa.repeat(version, len(told)), pa.repeat("summary", len(told))
    write_text(out / "scenario_text.parquet", rows.take(order), told, versions, source)
    return len(told)
