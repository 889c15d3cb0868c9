"""A process that serves: as BentoML's own, with the log set up before it begins."""

from __future__ import annotations

from bento.bentoml_names import worker
from bento.launch import run

if __name__ == "__main__":
    run(worker())
