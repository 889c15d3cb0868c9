"""Airflow on this machine for one person: scheduler, API server, DAG processor and triggerer until Ctrl-C.

    python -m dags.local --settings config/airflow-demo.yaml --port 8080

Its home is `airflow` below the settings' root, so a second start goes on where the first one was. Beside the settings
file `NAME.yaml` may lie `NAME.env` with the schedule (`LLM4MSR_SCHEDULE`, `LLM4MSR_START`, ...). The environment goes
before both that file and config/airflow.env; `AIRFLOW__DATABASE__SQL_ALCHEMY_CONN` names another database than SQLite.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from core import load_settings
from core.errors import Llm4msrError, SettingsError

HERE = Path(__file__).resolve().parent
COMMON = HERE.parent / "config" / "airflow.env"
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
DAG = "llm4msr"
HOST = "127.0.0.1"
# A component that was told to end may finish what it does; after so many seconds it is killed.
PATIENCE = 30


def main(arguments: list[str] | None = None) -> int:
    """Run Airflow until Ctrl-C or SIGTERM; exit code 2 with one message for the user's mistakes."""
    parser = argparse.ArgumentParser(prog="make airflow", description=__doc__.splitlines()[0])
    parser.add_argument("--settings", type=Path, default=HERE.parent / "config" / "airflow-demo.yaml")
    parser.add_argument("--port", type=int, default=8080, help="of the pages; 0 takes a free one")
    options = parser.parse_args(arguments)
    # Set here, since a shell that starts it in the background has it ignore Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        home = load_settings(options.settings).root / "airflow"
        with _alone(home):
            port = _free_port(options.port)
            airflow = Airflow(home, port, environment(options.settings.resolve(), home, port))
            airflow.run()
    except Llm4msrError as error:
        print(f"airflow: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 0
    return 0


def environment(settings: Path, home: Path, port: int) -> dict[str, str]:
    """What every Airflow process gets: ours, the settings' schedule, config/airflow.env, and above all the user's own."""
    address = f"http://{HOST}:{port}"
    bin_folder = str(Path(sys.prefix) / "bin")
    defaults = {
        **variables(COMMON),
        "AIRFLOW__CORE__DAGS_FOLDER": str(HERE),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(HERE / "plugins"),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(_free_port(0)),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(_free_port(0)),
        **variables(settings.with_suffix(".env")),
    }
    fixed = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "LLM4MSR_SETTINGS": str(settings),
        "PATH": f"{bin_folder}:{os.environ.get('PATH', '')}",
        # Otherwise a proxy would stand between Airflow's own processes.
        **{name: f"{HOST},localhost,{os.environ.get(name, '')}" for name in ("NO_PROXY", "no_proxy")},
    }
    return {**defaults, **os.environ, **fixed}


def variables(file: Path) -> dict[str, str]:
    """`NAME=VALUE` lines of a file; none where there is no file.

    Raises:
        SettingsError: a line is something else.
    """
    found = {}
    for number, line in enumerate(file.read_text().splitlines() if file.is_file() else (), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, sign, value = line.partition("=")
        if not sign or not name.strip().isidentifier():
            raise SettingsError(f"{file}, line {number}: {line!r} is not NAME=VALUE")
        found[name.strip()] = value.strip()
    return found


@dataclass
class Airflow:
    """The processes of one Airflow on this machine."""

    home: Path
    port: int
    env: Mapping[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    paused: bool = True

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}"

    def run(self) -> None:
        """Start everything, say where to click, and wait.

        Raises:
            SettingsError: a component ended by itself.
        """
        print("preparing Airflow's database (some seconds the first time)", flush=True)
        with self._log("db-migrate").open("wb") as log:
            done = subprocess.run(["airflow", "db", "migrate"], env=self.env, stdout=log, stderr=log, cwd=self.home)
        if done.returncode:
            raise SettingsError(f"the database could not be prepared:\n{self._last_lines('db-migrate')}")
        try:
            print(f"starting {', '.join(COMPONENTS)}", flush=True)
            for name in COMPONENTS:
                self._start(name)
            while not self._ready():
                self._check()
                time.sleep(0.5)
            print(self._welcome(), flush=True)
            while True:
                self._check()
                time.sleep(1)
        finally:
            _ignore_signals()
            print("ending Airflow", flush=True)
            self._stop()

    def _start(self, name: str) -> None:
        with self._log(name).open("wb") as log:
            self.processes[name] = subprocess.Popen(
                ["airflow", name], env=self.env, stdout=log, stderr=log, cwd=self.home, start_new_session=True
            )

    def _check(self) -> None:
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise SettingsError(f"{name} ended by itself; the end of {self._log(name)}:\n{self._last_lines(name)}")

    def _ready(self) -> bool:
        """Whether all components are well and the DAG can be clicked on; notes whether it is paused."""
        try:
            health = self._get("/api/v2/monitor/health")
            parts = ("metadatabase", "scheduler", "dag_processor", "triggerer")
            if any((health.get(part) or {}).get("status") != "healthy" for part in parts):
                return False
            login = json.dumps({"username": "admin", "password": self._password()}).encode()
            token = self._get("/auth/token", login)["access_token"]
            self.paused = bool(self._get(f"/api/v2/dags/{DAG}", token=token)["is_paused"])
            return True
        except (OSError, ValueError, KeyError, urllib.error.URLError):
            return False

    def _get(self, path: str, body: bytes | None = None, token: str = "") -> dict:
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        request = urllib.request.Request(self.address + path, data=body, headers=headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            return dict(json.loads(answer.read()))

    def _password(self) -> str:
        return str(json.loads((self.home / "simple_auth_manager_passwords.json.generated").read_text())["admin"])

    def _welcome(self) -> str:
        schedule = {
            "every": self.env.get("LLM4MSR_SCHEDULE", "0 0 * * *"),
            "from": self.env.get("LLM4MSR_START", "the latest interval"),
            "until": self.env.get("LLM4MSR_END", "no end"),
        }
        switch = (
            f"Switch the DAG {DAG} on there (the switch beside its name)"
            if self.paused
            else f"The DAG {DAG} is switched on and goes on where it was"
        )
        return f"""
Airflow is ready; its logs are in {self.home}.
  settings  {self.env["LLM4MSR_SETTINGS"]}
  schedule  {", ".join(f"{key} {value}" for key, value in schedule.items())}
  open      {self.address}/dags/{DAG}
  user      admin
  password  {self._password()}
{switch}; a task's page links what it made. Ctrl-C here ends everything."""

    def _stop(self) -> None:
        """End the stages that run, so that their tasks are tried again next time, then Airflow itself."""
        family = _descendants(process.pid for process in self.processes.values())
        for one in family:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                # A stage is started in a session of its own and takes its children with it.
                if os.getsid(one.pid) == one.pid:
                    os.killpg(one.pid, signal.SIGTERM)
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        family += [psutil.Process(p.pid) for p in self.processes.values() if psutil.pid_exists(p.pid)]
        _, left = psutil.wait_procs(family, timeout=PATIENCE)
        for one in {*left, *_descendants(process.pid for process in left)}:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        for process in self.processes.values():
            process.wait()

    def _log(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def _last_lines(self, name: str) -> str:
        return "\n".join(self._log(name).read_text(errors="replace").splitlines()[-15:])


def _interrupt(*_: object) -> None:
    _ignore_signals()
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    """A second Ctrl-C must not leave half of it running."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _descendants(pids: Iterator[int]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += psutil.Process(pid).children(recursive=True)
    return found


def _free_port(wanted: int) -> int:
    """The port, if nothing listens there; for 0 a free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except OSError as error:
            raise SettingsError(
                f"port {wanted} cannot be used ({error.strerror}); take another one: make airflow PORT=8090"
            ) from error
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Keep a second Airflow away from the same home.

    Raises:
        SettingsError: there is one already.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"Airflow already runs from {home}; end it there with Ctrl-C first") from None
        yield


if __name__ == "__main__":
    sys.exit(main())
