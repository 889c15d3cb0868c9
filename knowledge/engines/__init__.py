"""Who lets the reasoner read the texts of a run, chosen by `knowledge.engine`: this process, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core import ArtifactStore, Clock, Settings

__all__ = ["read_everything"]


def read_everything(
    sources: Sequence[Path],
    settings: Settings,
    clock: Clock,
    *,
    train_start: int,
    cache: Path,
    store: ArtifactStore,
    window_ends: Sequence[int] = (),
) -> Settings:
    """Fill the cache on the cluster that the settings name; with the engine `local` the stage reads for itself.

    Args:
        sources: folders of validated tables, on a file system that all machines share.
        settings: `data` and `knowledge` count.
        clock: rows at or after its now are not read.
        train_start: microseconds.
        cache: reasoner outputs by prompt hash, on a file system that all machines share.
        store: keeps compressors.
        window_ends: as in `build_knowledge`.

    Returns:
        The settings for the rest of the run, here: where the GPUs are the cluster's, the reasoner that only has to count
        tokens here is loaded on the CPU.
    """
    knowledge = settings.knowledge
    if knowledge.engine != "ray":
        return settings
    from knowledge.engines.cluster import Job, read_on_cluster

    read_on_cluster(Job(tuple(sources), settings, clock, train_start, cache, store, tuple(window_ends)))
    if not knowledge.ray.num_gpus:
        return settings
    return settings.model_copy(update={"knowledge": knowledge.model_copy(update={"device": "cpu"})})
