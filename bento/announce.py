"""Say that the service serves when it does: once it answers that it is ready, and not before."""

from __future__ import annotations

import json
import os
import ssl
import threading
import time
import urllib.request

from core import logger

LOG = logger("serve")
# What `llm4msr serve` lets the service say: its own address, and lines for people.
VARIABLE = "LLM4MSR_ANNOUNCE"
_EVERY = 0.2
_PATIENCE = 30.0


def announce(stop: threading.Event) -> None:
    """Begin to wait, in a thread; where nobody asked for it nothing happens.

    Args:
        stop: set when the process ends.
    """
    # The first process of several speaks; others find nothing.
    told = os.environ.pop(VARIABLE, None)
    if told is None or not _is_first():
        return
    asked = json.loads(told)
    threading.Thread(
        target=_wait, args=(asked["url"], asked["lines"], stop), name="llm4msr-announce", daemon=True
    ).start()


def _wait(url: str, lines: list[str], stop: threading.Event) -> None:
    # Past the environment's proxy: this is the process's own port.
    # Whose certificate nobody need vouch for.
    own = ssl.create_default_context()
    own.check_hostname, own.verify_mode = False, ssl.CERT_NONE
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=own))
    told = time.monotonic()
    while not stop.wait(_EVERY):
        if time.monotonic() - told > _PATIENCE:
            told = time.monotonic()
            LOG.warning("not ready yet; what it waits for stands above, and %s/readyz says when it is over", url)
        try:
            with direct.open(f"{url}/readyz", timeout=2) as answer:
                if answer.status == 200:
                    break
        except OSError:
            continue
    if not stop.is_set():
        LOG.info("\n  ".join([f"serving on {url}", *lines]))


def _is_first() -> bool:
    from bentoml import server_context

    return bool(server_context.worker_index in (None, 1))
