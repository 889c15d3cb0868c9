"""Start the service, wait for it, and ask it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from core import Settings, logger
from core.digest import REPOSITORY
from core.errors import MissingArtifactError, StorageError, UserError

LOG = logger("serve")


def service_command(host: str, port: int, workers: int = 1) -> list[str]:
    """The command line that serves; one service per process, no dependencies between services."""
    return [
        *(sys.executable, "-m", "bentoml", "serve", "bento.service:Ranker"),
        *("--host", host, "--port", str(port), "--api-workers", str(workers), "--timeout-keep-alive", "75"),
    ]


def serve_forever(settings: Settings, host: str | None, port: int | None, workers: int) -> None:
    """Replace this process by the service.

    Raises:
        MissingArtifactError: nothing was promoted yet.
        StorageError: the port is taken.
    """
    host, port = host or settings.serving.host, port or settings.serving.port
    _need_champion(settings)
    _need_port(host, port)
    LOG.info("serving on http://%s:%d", host, port)
    for line in curl_lines(settings, f"http://{host}:{port}"):
        print(line, file=sys.stderr)
    os.chdir(REPOSITORY)
    os.execve(sys.executable, service_command(host, port, workers), _environment(settings))


def curl_lines(settings: Settings, url: str) -> list[str]:
    """Commands to try against a running service, with a user and an item that exist."""
    user, scenario, item = example_request(settings)
    head = f"curl -s -X POST {url}"
    json_type = "-H 'Content-Type: application/json'"
    return [
        f"{head}/rank {json_type} -d '{json.dumps({'user_id': user, 'scenario': scenario, 'k': 5})}'",
        f"{head}/explain {json_type} -d '{json.dumps({'user_id': user, 'scenario': scenario, 'item_id': item})}'",
        f"curl -s {url}/scenarios",
        f"curl -s {url}/readyz",
    ]


def example_request(settings: Settings) -> tuple[Any, str, Any]:
    """A user, a scenario and an item of the newest training table's last row, of a user with a prompt if there is one."""
    import pyarrow.parquet as pq

    from pipeline.stages import artifact_store

    table = pq.read_table(artifact_store(settings).get("dataset").file("rows.parquet"))
    if "user_prompt_row" in table.column_names:
        known = table.filter(table["user_prompt_row"].is_valid())
        table = known if known.num_rows else table
    row = table.slice(table.num_rows - 1).to_pylist()[0]
    return row["user_id"], row["scenario"], row["item_id"]


@contextmanager
def running_service(settings: Settings, port: int | None = None, wait_seconds: float = 120) -> Iterator[str]:
    """The service in a child process, ready; yields its URL and ends it afterwards.

    Raises:
        UserError: it did not become ready; the message holds the end of its log.
    """
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            service_command("127.0.0.1", port),
            cwd=REPOSITORY,
            env=_environment(settings),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            if not wait_ready(process, url, wait_seconds):
                log.seek(0)
                tail = log.read().decode(errors="replace")[-2000:]
                raise UserError(f"the service did not become ready within {wait_seconds:.0f} s:\n{tail}")
            yield url
        finally:
            stop_service(process)


def stop_service(process: subprocess.Popen[bytes]) -> None:
    """End a service that leads a session of its own; after 15 s it is killed, with its workers."""
    process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()


def ask(settings: Settings, route: str, body: dict[str, Any], url: str | None = None) -> str:
    """POST to a running service; the answer as indented JSON.

    Raises:
        UserError: the service is not there or refuses the request; the message says why.
    """
    url = url or f"http://{settings.serving.host}:{settings.serving.port}"
    try:
        answer = httpx.post(url + route, json=body, timeout=30)
    except httpx.TransportError as error:
        raise UserError(f"no service answers at {url} ({error}); start one with `llm4msr serve`") from error
    if answer.status_code != 200:
        raise UserError(f"{url}{route} answered {answer.status_code}: {answer.text[:500]}")
    return json.dumps(answer.json(), indent=1, ensure_ascii=False)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(settings: Settings) -> dict[str, str]:
    quiet = {
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
    }
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return {**quiet, **os.environ, "PYTHONPATH": path, "LLM4MSR_SETTINGS": str(settings.file)}


def wait_ready(process: subprocess.Popen[bytes], url: str, seconds: float) -> bool:
    """Ask /readyz until it says yes, the process ends, or the time is over; whether it said yes."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url + "/readyz", timeout=2).status_code == 200:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    return False


def _need_champion(settings: Settings) -> None:
    pointer: Path = settings.root / "serving" / "current.json"
    if not pointer.is_file():
        raise MissingArtifactError(f"nothing was promoted yet ({pointer} is absent); run `llm4msr run` first")


def _need_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StorageError(
                f"port {port} of {host} cannot be used ({error.strerror}); choose another with --port"
            ) from error
