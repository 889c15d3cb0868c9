"""How a serving process starts: little is loaded to begin with, and nothing that may hang is waited for."""

from __future__ import annotations

import subprocess
import sys
import threading

from bento.live import Live
from core import Settings
from core.digest import REPOSITORY


def test_the_parent_process_of_the_workers_loads_neither_pytorch_nor_feast():
    look = "import sys, bento.service; print([m for m in ('torch', 'feast', 'torchrec') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", look], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]"), done.stderr


def test_a_worker_loads_no_torchrec():
    look = "import sys, models.bundle, feature_repo.reader; print('torchrec' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", look], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip().endswith("False"), done.stderr


def test_stores_that_hang_hold_up_no_start(tmp_path, monkeypatch):
    live, answered = Live(Settings(root=tmp_path)), threading.Event()
    monkeypatch.setattr(live, "refresh", answered.wait)
    start = threading.Thread(target=live.start)
    start.start()
    start.join(60)
    try:
        assert not start.is_alive() and not answered.is_set()
    finally:
        answered.set()
        live.stop()
