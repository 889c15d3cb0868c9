"""Parts of a run on their own: one share of the reading, one prompt, what there is to read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from core import logger
from core.errors import SettingsError
from knowledge.kinds.scenarios import count, prompts_at, scenario_texts
from knowledge.kinds.user_kind import Prompted, prompted_kinds
from knowledge.open_run import BLOCK_SHARDS, OpenRun, slices
from knowledge.plan import Texts
from knowledge.storage.buckets import Bucket, share_of

LOG = logger("knowledge")
_SAMPLE = 256


def read_share(run: OpenRun, part: tuple[int, int]) -> Mapping[str, int]:
    """Let the reasoner read part i of n: every n-th shard of the items, every n-th bucket of users (or a share of one,
    where there are more parts than buckets), and the scenarios in the first part.

    Returns:
        How many texts were looked at per kind; a bucket's parts each look at all of its prompts.
    """
    texts = [text for text in run.catalogue.texts if text]
    prompted = prompted_kinds(run)
    read = {"item_text": len(texts), **dict.fromkeys(prompted, 0), "scenario": 0}
    for block in slices(len(texts), BLOCK_SHARDS * run.settings.shard_rows):
        run.cached(part).fill(texts[block], "encoding item texts")
    for bucket, own in share_of(run.log.buckets, part) if prompted else ():
        cached, log = run.cached_users(bucket, own), run.log.log(bucket)
        for name, kind in prompted.items():
            for due, prompts in kind.texts(run, log):
                read[name] += len(due)
                cached.fill(prompts, "encoding user prompts")
    if part[0] == 1:
        prompts = scenario_texts(run, count(run, run.moments))
        run.cached().fill(prompts, "encoding scenarios")
        read["scenario"] = len(prompts)
    return read


def warn_of_missing(marks: Path) -> None:
    """Say which parts have not reported where others of the same number have, and none of another number all."""
    reported: dict[int, set[int]] = {}
    for path in marks.iterdir() if marks.is_dir() else ():
        if match := re.fullmatch(r"(\d+)-of-(\d+)\.json", path.name):
            reported.setdefault(int(match.group(2)), set()).add(int(match.group(1)))
    missing = {of: sorted(set(range(1, of + 1)) - done) for of, done in reported.items()}
    for of, left in sorted(missing.items()) if all(missing.values()) else ():
        told = ", ".join(f"{number}/{of}" for number in left)
        LOG.warning("shard %s has not reported; what it left out is read here", told)


def user_prompt(run: OpenRun, user_id: int | str) -> tuple[str | None, int]:
    """See `Run.user_prompt`."""
    log = run.log.log(Bucket(1, 0), pa.array([user_id]))
    own = run.due(log).newest()
    prompt = run.prompt_builder(log).build(own)[0] if len(own) else None
    return prompt, len(log.users)


def scenario_prompt(run: OpenRun, name: str) -> dict[str, str]:
    """See `Run.scenario_prompt`."""
    names = [known for known, _, _ in run.catalogue.scenarios]
    if name not in names:
        raise SettingsError(f"unknown scenario {name!r}; known: {', '.join(names)}")
    written = prompts_at(run, count(run, run.moments[:1]), run.train_start)
    left_out = written.left_out(run.settings.max_tokens)
    return {"scenario": name, "prompt": written.texts[names.index(name)], "left_out": left_out}


def workload(run: OpenRun) -> tuple[list[Texts], list[str]]:
    """See `Run.workload`."""
    texts = [text for text in run.catalogue.texts if text]
    some = [texts[i] for i in _spread(len(texts), _SAMPLE)]
    found = [_texts("item_text", len(texts), some, run, run.cached().share_known(some))]
    for name, kind in prompted_kinds(run).items():
        prompts, some = _prompts(run, name, kind)
        found.append(prompts)
    written = prompts_at(run, count(run, run.moments[:1]), run.train_start)
    about = _texts("scenario", len(written.texts), written.texts, run, run.cached().share_known(written.texts))
    found.append(replace(about, note=written.left_out(run.settings.max_tokens)))
    return found, some


def _prompts(run: OpenRun, name: str, kind: Prompted) -> tuple[Texts, list[str]]:
    """How many prompts there are, and a sample of about the same number from each bucket."""
    some: list[str] = []
    many, known = 0, 0.0
    each = -(-_SAMPLE // len(run.log.buckets))
    for bucket, log in run.log.logs():
        due = kind.snapshots(run, log)
        texts = kind.writer(run, log)(due.take(_spread(len(due), each)))
        known += run.cached_users(bucket).share_known(texts) * len(texts)
        many, some = many + len(due), some + texts
    return _texts(name, many, some, run, known / max(1, len(some)), prompted=True), some


def _texts(kind: str, many: int, sample: Sequence[str], run: OpenRun, known: float, prompted: bool = False) -> Texts:
    reader = run.generator if prompted else run.reasoner
    lengths, most = reader.tokens(sample), run.settings.max_tokens
    cut = float((lengths > most).mean()) if len(sample) else 0.0
    return Texts(kind, many, np.minimum(lengths, most), 1.0 - known, cut, prompted=prompted)


def _spread(many: int, sample: int) -> np.ndarray:
    return np.unique(np.linspace(0, max(0, many - 1), min(many, sample)).astype(np.int64))
