"""A copy of the product's rooms, changed as a page of the documentation says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY

ROOMS = ("core", "ingest", "knowledge", "validation", "models", "feature_repo", "bento", "pipeline")


def copy_rooms(folder: Path) -> None:
    """Copy the rooms into a folder."""
    for room in ROOMS:
        shutil.copytree(REPOSITORY / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))


def change(file: Path, diff: str) -> None:
    """Replace the lines that a block of a page shows by those that it gives; they must be there once."""
    lines = diff.splitlines()
    old, new = ("".join(f"{line[1:]}\n" for line in lines if line[:1] in (" ", sign)) for sign in "-+")
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"the page shows lines that {file.name} does not have:\n{old}"
    file.write_text(text.replace(old, new), encoding="utf-8")


def run(code: str, folder: Path, settings: Path) -> subprocess.CompletedProcess[str]:
    """Run code in the changed rooms on a settings file."""
    own = {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "LLM4MSR_SETTINGS": str(settings)}
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **own}, cwd=folder, capture_output=True, text=True
    )
