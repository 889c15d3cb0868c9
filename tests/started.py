"""A real service for tests, alive or ready, with its log."""

from __future__ import annotations

import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from core import load_settings
from core.digest import REPOSITORY
from pipeline.commands.serve import free_port, service_command, service_environment, stop_service

WAIT = 600


@dataclass(frozen=True)
class Started:
    """A running service.

    Attributes:
        url: where it listens.
        log: all that it has written.
        client: asks it.
    """

    url: str
    log: Path
    client: httpx.Client


@contextmanager
def started(
    settings: Path,
    log: Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    ready: bool = False,
    workers: int = 1,
    **more: str,
) -> Iterator[Started]:
    """Start the service of a settings file; it is alive when this yields, and gone afterwards.

    Args:
        settings: the file.
        log: where its output goes.
        host: to listen on.
        port: to listen on; none: a free one.
        ready: wait until it is ready, too.
        workers: processes.
        more: environment variables.
    """
    port, loaded = port or free_port(), load_settings(settings)
    environment = {**service_environment(loaded, host, port), **more}
    with log.open("w") as stream:
        process = subprocess.Popen(
            service_command(host, port, workers, loaded.serving),
            cwd=REPOSITORY,
            env=environment,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    certificate = loaded.serving.ssl_certfile
    trusted = ssl.create_default_context(cafile=certificate) if certificate else False
    url = f"{'https' if certificate else 'http'}://{host}:{port}"
    try:
        with httpx.Client(base_url=url, timeout=WAIT, trust_env=False, verify=trusted) as client:
            _wait(process, client, log, "/readyz" if ready else "/livez")
            yield Started(url, log, client)
    finally:
        stop_service(process)


def _wait(process: subprocess.Popen[bytes], client: httpx.Client, log: Path, route: str) -> None:
    deadline = time.monotonic() + WAIT
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if client.get(route).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"the service did not start:\n{log.read_text()[-3000:]}")
