"""Parts of a knowledge run on their own: one share of the reading, one user's prompt, what a run would have to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from core import ArtifactStore, Clock, Settings
from core.errors import SettingsError
from core.store import replace_json
from knowledge.kinds.scenarios import count, moments_of, scenario_texts, told_at
from knowledge.open_run import BLOCK_SHARDS, Work, marks_of, open_work, parts
from knowledge.plan import Texts
from knowledge.reasoners import among
from knowledge.storage.buckets import Bucket, share_of

_SAMPLE = 256


def read_part(
    sources: Sequence[Path],
    settings: Settings,
    clock: Clock,
    *,
    train_start: int,
    cache: Path,
    part: tuple[int, int],
    window_ends: Sequence[int] = (),
) -> Path:
    """Let the reasoner read every n-th shard of the texts of a run; the stage then finds them in the cache.

    Parts need no order and no word of each other: they may run at the same time, on machines that share the cache.

    Args:
        sources: folders of validated tables, in order of their windows.
        settings: `data` and `knowledge` count.
        clock: rows at or after its now are not read.
        train_start: microseconds.
        cache: reasoner outputs by prompt hash.
        part: (i, n), i from 1 to n.
        window_ends: as in `build_knowledge`.

    Returns:
        The part's done-mark, a JSON file.

    Raises:
        SettingsError: there is no such part.
    """
    number, of = part
    if not 1 <= number <= of:
        raise SettingsError(f"--shard {number}/{of}: count from 1 to {of}")
    with _work(sources, among(settings, of), clock, train_start, cache) as work:
        read = read_share(work, part, moments_of(train_start, window_ends))
        told = {"part": number, "parts": of, "texts_of_the_part": read, "reasoner": work.reasoner.identity}
    mark = marks_of(sources, settings, cache) / f"{number}-of-{of}.json"
    replace_json(mark, told)
    return mark


def read_share(work: Work, part: tuple[int, int], moments: Sequence[int]) -> Mapping[str, int]:
    """Let the reasoner read part i of n: every n-th shard of the items, every n-th bucket of users (or a share of one,
    where there are more parts than buckets), and the scenarios in the first part.

    Returns:
        How many texts were looked at per kind; a bucket's parts each look at all of its prompts.
    """
    knowledge = work.settings.knowledge
    texts = [text for text in work.catalogue.texts if text]
    read = {"item_text": len(texts), "prompt": 0, "scenario": 0}
    for block in parts(len(texts), BLOCK_SHARDS * knowledge.shard_rows):
        work.cached(part).fill(texts[block], "encoding item texts")
    if "prompt" in knowledge.user_vectors:
        for bucket, own in share_of(work.log.buckets, part):
            cached = work.cached_users(bucket, own)
            for due, prompts in work.prompt_texts(work.log.log(bucket)):
                read["prompt"] += len(due)
                cached.fill(prompts, "encoding user prompts")
    if part[0] == 1:
        prompts = scenario_texts(work, count(work, moments), moments)
        work.cached().fill(prompts, "encoding scenarios")
        read["scenario"] = len(prompts)
    return read


def user_prompt(
    sources: Sequence[Path], settings: Settings, clock: Clock, *, train_start: int, cache: Path, user_id: int | str
) -> tuple[str | None, int]:
    """The prompt of a user's newest due snapshot, None for a user without one; and how many rows the user has."""
    with _work(sources, settings, clock, train_start, cache) as work:
        log = work.log.log(Bucket(1, 0), pa.array([user_id]))
        own = work.due(log).newest()
        prompt = work.prompt_builder(log).build(own)[0] if len(own) else None
        return prompt, len(log.users)


def scenario_prompt(
    sources: Sequence[Path], settings: Settings, clock: Clock, *, train_start: int, cache: Path, name: str
) -> dict[str, str]:
    """A scenario's prompt at the start of training, and what the prompts of all scenarios leave out, in words.

    Raises:
        SettingsError: there is no such scenario.
    """
    with _work(sources, settings, clock, train_start, cache) as work:
        names = [known for known, _, _ in work.catalogue.scenarios]
        if name not in names:
            raise SettingsError(f"unknown scenario {name!r}; known: {', '.join(names)}")
        told = told_at(work, count(work, [train_start]), train_start)
        left_out = told.summary(settings.knowledge.max_tokens)
        return {"scenario": name, "prompt": told.texts[names.index(name)], "left_out": left_out}


def workload(
    sources: Sequence[Path], settings: Settings, clock: Clock, *, train_start: int, cache: Path
) -> tuple[list[Texts], list[str]]:
    """What a run would have to read, from samples of up to 256 texts of each kind.

    Returns:
        Counts, token counts and the share that the cache lacks, per kind; and the sampled user prompts, or item texts
        where no prompts are read, to measure with.
    """
    with _work(sources, settings, clock, train_start, cache) as work:
        texts = [text for text in work.catalogue.texts if text]
        some = [texts[i] for i in _spread(len(texts), _SAMPLE)]
        found = [_texts("item_text", len(texts), some, work, work.cached().share_known(some))]
        if "prompt" in settings.knowledge.user_vectors:
            prompts, some = _prompts(work)
            found.append(prompts)
        told = told_at(work, count(work, [train_start]), train_start)
        about = _texts("scenario", len(told.texts), told.texts, work, work.cached().share_known(told.texts))
        found.append(replace(about, note=told.summary(settings.knowledge.max_tokens)))
        return found, some


def _prompts(work: Work) -> tuple[Texts, list[str]]:
    """How many prompts there are, and a sample of about the same number from each bucket."""
    some: list[str] = []
    many, known = 0, 0.0
    each = -(-_SAMPLE // len(work.log.buckets))
    for bucket, log in work.log.logs():
        due = work.prompted(log, work.due(log))
        texts = work.prompt_builder(log).build(due.take(_spread(len(due), each)))
        known += work.cached_users(bucket).share_known(texts) * len(texts)
        many, some = many + len(due), some + texts
    return _texts("prompt", many, some, work, known / max(1, len(some)), thinks=True), some


def _texts(kind: str, many: int, sample: Sequence[str], work: Work, known: float, thinks: bool = False) -> Texts:
    reader = work.thinker if thinks else work.reasoner
    lengths, most = reader.tokens(sample), work.settings.knowledge.max_tokens
    cut = float((lengths > most).mean()) if len(sample) else 0.0
    return Texts(kind, many, np.minimum(lengths, most), 1.0 - known, cut)


def _spread(many: int, sample: int) -> np.ndarray:
    return np.unique(np.linspace(0, max(0, many - 1), min(many, sample)).astype(np.int64))


def _work(
    sources: Sequence[Path], settings: Settings, clock: Clock, train_start: int, cache: Path
) -> AbstractContextManager[Work]:
    return open_work(sources, settings, clock, train_start, cache, ArtifactStore(cache.parent))
