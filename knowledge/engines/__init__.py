"""Who lets the reasoner read the texts of a run, chosen by `knowledge.engine`: this process, or a Ray cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from knowledge.run import Run

__all__ = ["read_everything"]


def read_everything(run: Run) -> Run:
    """Fill the cache on the cluster that the settings name; with the engine `local` the stage reads for itself.

    Sources and cache must be on a file system that all machines share.

    Returns:
        The rest of the run, for here: where the GPUs are the cluster's, the reasoner that only has to count tokens here is
        loaded on the CPU.
    """
    settings = run.settings
    if settings.engine != "ray":
        return run
    from knowledge.engines.cluster import read_on_cluster

    read_on_cluster(run)
    if not settings.ray.num_gpus:
        return run
    return replace(run, settings=settings.model_copy(update={"device": "cpu"}))
