"""A process that serves: as BentoML's own, with the log set up before it begins, and bounds before all else."""

from __future__ import annotations

from typing import Any

from bento.bentoml_names import stand_before, worker
from bento.launch import run
from core import logger

LOG = logger("bento")


def main(**options: Any) -> None:
    """BentoML's command, which the log is set up for."""
    from bento.front import Front

    try:
        stand_before(Front, "bento.front:BoundedConnection")
    except (ImportError, AttributeError):
        LOG.warning("BentoML makes its application otherwise in this version: heads of requests have no bounds")
    worker()(**options)


if __name__ == "__main__":
    run(main)
