"""Parts of a knowledge run on their own: one shard of the reading, one user's prompt, what a run would have to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core import ArtifactStore, Clock, Settings
from core.digest import sha256_json
from core.errors import SettingsError
from core.store import replace_json
from knowledge.build import Work
from knowledge.plan import Texts

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
    number, parts = part
    if not 1 <= number <= parts:
        raise SettingsError(f"--shard {number}/{parts}: count from 1 to {parts}")
    work = _work(sources, settings, clock, train_start, cache, part)
    knowledge = settings.knowledge
    block = 16 * knowledge.shard_rows
    texts = [text for text in work.catalogue.texts if text]
    moments = [train_start, *sorted({end for end in window_ends if end > train_start})]
    read = {"item_text": len(texts), "prompt": 0, "scenario": 0}
    for start in range(0, len(texts), block):
        work.cached().fill(texts[start : start + block], "encoding item texts")
    if "prompt" in knowledge.user_vectors:
        due, builder = work.prompted(work.due()), work.prompt_builder()
        read["prompt"] = len(due)
        for start in range(0, len(due), block):
            built = builder.build(due.take(np.arange(start, min(len(due), start + block))))
            work.cached(thinks=True).fill(built, "encoding user prompts")
    if number == 1:
        prompts = work.scenario_prompts(moments)
        work.cached().fill(prompts, "encoding scenarios")
        read["scenario"] = len(prompts)
    key = sha256_json(
        {"sources": [str(s) for s in sources], "knowledge": settings.section("knowledge"), "now": clock.now_micros()}
    )[:16]
    mark = cache / "done" / key / f"{number}-of-{parts}.json"
    replace_json(mark, {"part": number, "parts": parts, "texts_of_the_run": read, "reasoner": work.reasoner.identity})
    return mark


def user_prompt(
    sources: Sequence[Path], settings: Settings, clock: Clock, *, train_start: int, cache: Path, user_id: int | str
) -> str | None:
    """The prompt of a user's newest due snapshot; None for a user without one."""
    work = _work(sources, settings, clock, train_start, cache)
    place = pc.index(work.log.user_ids, pa.scalar(user_id, work.log.user_ids.type)).as_py()
    due = work.due()
    own = due.take(due.users == place).newest()
    return work.prompt_builder().build(own)[0] if len(own) else None


def workload(
    sources: Sequence[Path], settings: Settings, clock: Clock, *, train_start: int, cache: Path
) -> tuple[list[Texts], list[str]]:
    """What a run would have to read, from samples of up to 256 evenly spaced texts of each kind.

    Returns:
        Counts, token counts and the share that the cache lacks, per kind; and the sampled user prompts, or item texts
        where no prompts are read, to measure with.
    """
    work = _work(sources, settings, clock, train_start, cache)
    texts = [text for text in work.catalogue.texts if text]
    some = [texts[i] for i in _spread(len(texts))]
    found = [_texts("item_text", len(texts), some, work, thinks=False)]
    if "prompt" in settings.knowledge.user_vectors:
        due = work.prompted(work.due())
        some = work.prompt_builder().build(due.take(_spread(len(due))))
        found.append(_texts("prompt", len(due), some, work, thinks=True))
    prompts = work.scenario_prompts([train_start])
    found.append(_texts("scenario", len(prompts), prompts, work, thinks=False))
    return found, some


def _texts(kind: str, count: int, sample: Sequence[str], work: Work, thinks: bool) -> Texts:
    reader = work.thinker if thinks else work.reasoner
    lengths = np.minimum(reader.tokens(sample), work.settings.knowledge.max_tokens)
    return Texts(kind, count, lengths, 1.0 - work.cached(thinks).share_known(sample))


def _spread(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, max(0, count - 1), min(count, _SAMPLE)).astype(np.int64))


def _work(
    sources: Sequence[Path],
    settings: Settings,
    clock: Clock,
    train_start: int,
    cache: Path,
    part: tuple[int, int] | None = None,
) -> Work:
    return Work.open(sources, cache, settings, clock, train_start, cache, ArtifactStore(cache.parent), part)
