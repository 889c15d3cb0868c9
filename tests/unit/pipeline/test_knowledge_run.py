from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from core import Settings, as_utc, replay, to_micros
from pipeline.knowledge_run import run_of


def test_nothing_is_built_from_later_than_the_clocks_now(tmp_path: Path) -> None:
    first = "2024-01-01T00:00:00+00:00"
    ends = [first, "2024-02-01T00:00:00+00:00", None]
    clean: list[Any] = [SimpleNamespace(path=tmp_path / str(i), window={"end": end}) for i, end in enumerate(ends)]
    now = "2024-01-20T00:00:00+00:00"
    run = run_of(Settings(root=tmp_path), clean, replay(now), 5)
    assert list(run.window_ends) == [to_micros(as_utc(end)) for end in (first, now)]
    assert (run.cache, run.compressors.root) == (tmp_path / "cache", tmp_path)
    assert list(run.sources) == [m.path for m in clean]
