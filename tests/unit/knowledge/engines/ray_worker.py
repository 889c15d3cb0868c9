"""Runs in every Ray worker of the test: a reasoner that keeps a record, and dies once, in the middle of a shard."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit.knowledge.knowledge_worlds import Letters

import knowledge.run
import knowledge.storage.buckets

DEADLY = 4


class Recorded(Letters):
    """Appends what it is asked to `record.jsonl`; the process that is asked the fourth time is killed, but once only."""

    def __init__(self, place: Path) -> None:
        super().__init__()
        self._place, self._calls = place, 0

    def encode(self, texts: Sequence[str], progress: Any = iter) -> np.ndarray:
        self._calls += 1
        with (self._place / "record.jsonl").open("a") as stream:
            stream.write(json.dumps({"pid": os.getpid(), "texts": list(texts)}) + "\n")
        if self._calls == DEADLY:
            try:
                (self._place / "killed").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(texts, progress)


def prepare() -> None:
    """Ray calls it when a worker process starts."""
    place = Path(os.environ["LLM4MSR_TEST_PLACE"])
    knowledge.storage.buckets.BUCKET_ROWS = 128
    pytest.MonkeyPatch().setattr(knowledge.run, "make_reasoner", lambda _: Recorded(place))
