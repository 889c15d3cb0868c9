import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from core import Settings, Window
from core.settings import DataSettings
from ingest import PushedLog, read_source

TABLES = ("interactions", "users", "items", "scenarios")


class Ingested:
    """What a run of `read_source` wrote."""

    def __init__(self, folder: Path, rows: dict[str, int]) -> None:
        self.folder, self.rows = folder, rows
        self.meta = json.loads((folder / "meta.json").read_text())
        for table in TABLES:
            setattr(self, table, pq.read_table(folder / f"{table}.parquet"))

    def column(self, table: str, name: str) -> list:
        return getattr(self, table)[name].to_pylist()


@pytest.fixture
def ingest(tmp_path: Path) -> Callable[..., Ingested]:
    """Run the room on a `data` section; the window is everything unless given."""

    def run(window: Window = Window(), pushed: PushedLog | None = None, **data: Any) -> Ingested:
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        out.mkdir()
        return Ingested(out, dict(read_source(Settings(data=DataSettings(**data)), window, out, pushed).rows))

    return run


@pytest.fixture
def raw(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """A folder for raw files; `raw("a.csv", text)` writes one and returns the folder."""
    folder = tmp_path / "raw"
    folder.mkdir()

    def write(name: str, content: str | bytes) -> Path:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return folder

    return write
