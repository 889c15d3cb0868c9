"""What goes wrong within Ray's actors, on a real cluster of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_refresh import ROWS, SETTINGS, Home

from core import Settings
from core.errors import SettingsError


def test_an_actors_error_is_the_runs_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.data

    asked: dict[str, Any] = {}
    map_batches = ray.data.Dataset.map_batches

    def spy(self: Any, *args: Any, **options: Any) -> Any:
        asked.update(options)
        return map_batches(self, *args, **options)

    monkeypatch.setattr(ray.data.Dataset, "map_batches", spy)
    home = Home(tmp_path)
    home.write("all", ROWS)
    absent = {"reasoner": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1", "retries": 0}
    knowledge = SETTINGS.knowledge.model_dump() | absent | {"engine": "ray", "ray": {"workers": 1}}
    with pytest.raises(SettingsError, match=r"base_url http://127\.0\.0\.1:9/v1.*is the server up") as found:
        home.build("out", ["all"], settings=Settings(knowledge=knowledge))
    assert type(found.value) is SettingsError
    assert (asked["max_restarts"], asked["max_task_retries"]) == (3, 3)
