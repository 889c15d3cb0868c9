"""Run one stage after another in forked children, killing each with SIGKILL before letting it finish.

usage: python kill_driver.py SETTINGS   prints one JSON object: stage -> {"killed": [...], "digest": ...}
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

# Loaded once here, so that the forked children do not pay for it.
import bentoml
import feast
import great_expectations
import mlflow
import pytest
import torchrec
import transformers

import core.store
from core import Settings, Window, load_settings
from pipeline.run import RUN_ORDER, STAGES


def forked(work: Callable[[], str], kill_after: float | None = None) -> tuple[int, str]:
    """Run in a child; its wait status and what it returned."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            os.write(write, work().encode())
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    os.close(write)
    timer = threading.Timer(kill_after, os.kill, (child, signal.SIGKILL)) if kill_after is not None else None
    if timer is not None:
        timer.start()
    with os.fdopen(read) as stream:
        text = stream.read()
    status = os.waitpid(child, 0)[1]
    if timer is not None:
        timer.cancel()
    return status, text


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def abuse(settings: Settings, name: str) -> dict[str, object]:
    """Kill a stage just before it publishes, half-way, and just after it published; then let it finish."""

    def run() -> str:
        return STAGES[name](settings, Window()).digest

    def before_publishing() -> str:
        pytest.MonkeyPatch().setattr(core.store, "_publish", die)
        return run()

    def after_publishing() -> str:
        pytest.MonkeyPatch().setattr(core.store.ArtifactStore, "_point", die)
        return run()

    begin = time.monotonic()
    statuses = [forked(before_publishing)[0]]
    whole = time.monotonic() - begin
    visible = len(list((settings.root / "objects" / name).glob("*")))
    statuses.append(forked(run, kill_after=whole / 2)[0])
    statuses.append(forked(after_publishing)[0])
    status, digest = forked(run)
    killed = [os.WTERMSIG(s) if os.WIFSIGNALED(s) else 0 for s in statuses]
    return {"killed": killed, "visible": visible, "status": status, "digest": digest}


def main() -> None:
    settings = load_settings(sys.argv[1])
    print(json.dumps({name: abuse(settings, name) for name in RUN_ORDER}))


if __name__ == "__main__":
    main()
