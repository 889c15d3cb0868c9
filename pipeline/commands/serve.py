"""Start the service, wait for it, and ask it."""

from __future__ import annotations

import json
import os
import shlex
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from bento.announce import VARIABLE as ANNOUNCE
from core import Settings, logger
from core.addresses import is_loopback, shown
from core.contracts.pointers import BundlePointer
from core.digest import REPOSITORY
from core.errors import CorruptArtifactError, MissingArtifactError, SettingsError, StorageError, UserError
from core.settings import ServingSettings

LOG = logger("serve")


def service_command(host: str, port: int, workers: int = 1, serving: ServingSettings | None = None) -> list[str]:
    """The command line that serves; one service per process, no dependencies between services."""
    certificate = serving and serving.ssl_certfile
    secure = (
        [f"--ssl-certfile={certificate}", f"--ssl-keyfile={serving.ssl_keyfile}"] if serving and certificate else []
    )
    return [
        *(sys.executable, "-m", "bento.launch", "serve", "bento.service:Ranker"),
        *("--host", host, "--port", str(port), "--api-workers", str(workers), "--timeout-keep-alive", "75"),
        *secure,
    ]


def serve_forever(settings: Settings, **chosen: Any) -> None:
    """Replace this process by the service, which says that it serves once it does.

    Args:
        settings: of the project.
        chosen: fields of `serving` that were given on the command line; None: as the settings say.

    Raises:
        MissingArtifactError: nothing was promoted yet.
        SettingsError: the certificate and its key cannot be used.
        StorageError: the port is taken.
    """
    given = {name: value for name, value in chosen.items() if value is not None}
    serving = ServingSettings.model_validate({**settings.serving.model_dump(), **given})
    version = _need_champion(settings)
    need_port(serving.host, serving.port)
    if serving.admin_port:
        need_port(serving.admin_host or serving.host, serving.admin_port, "serving.admin_port")
    _need_certificate(serving)
    url = local_url(serving)
    LOG.info("loading %s; what it answers is told once it serves on %s", version, url)
    told = json.dumps({"url": url, "lines": curl_lines(settings.model_copy(update={"serving": serving}), url)})
    os.chdir(REPOSITORY)
    environment = {**service_environment(settings, serving.host, serving.port), ANNOUNCE: told}
    # The processes read the same settings file.
    environment |= {f"LLM4MSR_SERVING__{name.upper()}": str(value) for name, value in given.items()}
    os.execve(sys.executable, service_command(serving.host, serving.port, serving.workers, serving), environment)


def local_url(serving: ServingSettings) -> str:
    """Where this machine reaches a service that listens on an address; all addresses are reached at the loopback one."""
    place = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(serving.host, serving.host)
    scheme = "https" if serving.ssl_certfile else "http"
    return f"{scheme}://[{place}]:{serving.port}" if ":" in place else f"{scheme}://{place}:{serving.port}"


def curl_lines(settings: Settings, url: str) -> list[str]:
    """Commands to try against a running service, with a user and an item that exist."""
    user, scenario, item = example_request(settings)
    # Its own certificate is trusted here, whoever signed it.
    curl = (
        f"curl -s --cacert {shlex.quote(str(settings.serving.ssl_certfile))}" if url.startswith("https:") else "curl -s"
    )
    head = f"{curl} -X POST {url}"
    token = ' -H "Authorization: Bearer $LLM4MSR_SERVING__TOKENS__READ"' if settings.serving.tokens.read else ""
    json_type = f"-H 'Content-Type: application/json'{token}"
    explain = {"user_id": user, "scenario": scenario, "item_id": item}
    return [
        f"{head}/rank {json_type} -d '{json.dumps({'user_id': user, 'scenario': scenario, 'k': 5})}'",
        *([f"{head}/explain {json_type} -d '{json.dumps(explain)}'"] if settings.serving.explain else []),
        f"{curl} {url}/scenarios{token}",
        f"{curl} {url}/readyz",
    ]


def example_request(settings: Settings) -> tuple[Any, str, Any]:
    """A user, a scenario and an item of the newest training table's last row, of a user with a prompt if there is one."""
    from core.training_table import columns_of, read_rows
    from pipeline.windows import artifact_store

    folder = artifact_store(settings).get("dataset").path
    prompts = [name for name in columns_of(folder) if name == "user_prompt_row"]
    table = read_rows(folder, ["user_id", "scenario", "item_id", *prompts])
    if prompts:
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
            # The admin port and the certificate are of the service that runs beside this one.
            env={**service_environment(settings, "127.0.0.1", port), "LLM4MSR_SERVING__ADMIN_PORT": "0"},
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


def ask(settings: Settings, route: str, body: dict[str, Any], url: str | None = None) -> dict[str, Any]:
    """POST to a running service.

    Raises:
        UserError: the service is not there or refuses the request; the message says why.
    """
    base = service_url(settings, url)
    try:
        # A proxy of the environment knows nothing of this machine's own services.
        with httpx.Client(timeout=30, trust_env=not is_loopback(base), verify=_trusted(settings, base)) as client:
            answer = client.post(base + route, json=body, headers=_authorization(settings, route))
    except httpx.TransportError as error:
        hint = "start one with `llm4msr serve`" if url is None else "see --url"
        raise UserError(f"no service answers at {base} ({error}); {hint}") from error
    except (httpx.InvalidURL, ImportError, ValueError) as error:
        raise UserError(
            f"{base} cannot be asked: {error}; see --url, and HTTP_PROXY, ALL_PROXY and NO_PROXY"
        ) from error
    try:
        told = answer.json()
    except ValueError:
        told = None
    if answer.status_code != 200:
        raise UserError(f"{base}{route} answered {answer.status_code}: {_reason(told) or answer.text[:500]}")
    if not isinstance(told, dict):
        raise UserError(f"what answers at {base} is no llm4msr service; see serving.port, or --url")
    return told


def _trusted(settings: Settings, base: str) -> ssl.SSLContext | bool:
    """Who vouches for a service: this machine's authorities, and the certificate that the settings name."""
    certificate = settings.serving.ssl_certfile
    if not base.startswith("https:") or certificate is None or not certificate.is_file():
        return True
    context = ssl.create_default_context()
    context.load_verify_locations(certificate)
    return context


def _authorization(settings: Settings, route: str) -> dict[str, str]:
    """The header with the route's token, where the settings have one."""
    token = settings.serving.tokens.of("write" if route == "/push" else "read")
    return {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}


def service_url(settings: Settings, url: str | None) -> str:
    """The address to ask, without a slash at its end.

    Raises:
        SettingsError: `url` is no address.
    """
    if url is None:
        return local_url(settings.serving)
    full = url.strip()
    full = full if "://" in full else f"http://{full}"
    try:
        parts = urlsplit(full)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        raise SettingsError(f"--url {shown(url)!r} is no address of a service; write http://host:port")
    return full.rstrip("/")


def _reason(told: Any) -> str:
    """What a refusal says."""
    return str(told.get("detail") or "") if isinstance(told, dict) else ""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def service_environment(settings: Settings, host: str, port: int) -> dict[str, str]:
    """The environment of a service at an address; two services do not share their files."""
    home = Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml")
    quiet = {
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
    }
    # A service empties its folder of metrics when it starts: one folder for two services would lose the other's counts.
    own = {"BENTOML_HOME": str(home / "services" / f"{host.replace(':', '_')}-{port}")}
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return {**quiet, **os.environ, **own, "PYTHONPATH": path, "LLM4MSR_SETTINGS": str(settings.file)}


def wait_ready(process: subprocess.Popen[bytes], url: str, seconds: float) -> bool:
    """Ask /readyz until it says yes, the process ends, or the time is over; whether it said yes."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url + "/readyz", timeout=2, trust_env=False).status_code == 200:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    return False


def _need_champion(settings: Settings) -> str:
    """What will be loaded, in words; a pointer that cannot be used does not keep a service with a seed from starting."""
    try:
        champion = BundlePointer.read(settings.root)
    except CorruptArtifactError as error:
        LOG.warning("%s", error)
        return "what can be loaded"
    if champion is None:
        raise MissingArtifactError(
            f"nothing was promoted yet ({BundlePointer.path(settings.root)} is absent); run `llm4msr run` first"
        )
    return f"version {champion.version}"


def _need_certificate(serving: ServingSettings) -> None:
    """Refuse a certificate and a key that TLS cannot be spoken with: each process would die of them, again and again."""
    if serving.ssl_certfile is None or serving.ssl_keyfile is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(serving.ssl_certfile, serving.ssl_keyfile, lambda: "")
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{serving.ssl_certfile} (serving.ssl_certfile) and {serving.ssl_keyfile} (serving.ssl_keyfile) cannot be used: "
            f"{error}; both are PEM files, and the key has no password"
        ) from error


def need_port(host: str, port: int, setting: str = "serving.port") -> None:
    """Refuse an address that cannot be listened on.

    Args:
        host: its name or address.
        port: of TCP.
        setting: what the port comes from.

    Raises:
        StorageError: the host is unknown here, or the port is taken.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError, OverflowError) as error:
        raise StorageError(f"serving.host {host!r} is no address of this machine ({error}); see --host") from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        option = "--port or " if setting == "serving.port" else ""
        try:
            probe.bind(place)
        except OSError as error:
            raise StorageError(
                f"port {port} of {host} cannot be used ({error.strerror}); choose another with {option}{setting}"
            ) from error
