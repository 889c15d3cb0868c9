"""Refresh and retrain on schedule. Thin: every task is one stage of the command line, for the run's data interval.

Tasks, edges and time limits are those of pipeline/graph.py, which needs the standard library only: the scheduler needs
neither torch nor Feast, and parsing stays cheap. Stages that do not read each other run beside each other, so an online
store that is away stops no training, only promotion.

    LLM4MSR_SETTINGS     the settings file, read when a task runs; config/production.yaml beside this folder by default
    LLM4MSR_COMMAND      the command to run, with its arguments; the console script beside this interpreter by default
    LLM4MSR_SCHEDULE     a cron expression, `0 0 * * *` (whole days, UTC) by default
    LLM4MSR_START        the first interval begins here or later, ISO 8601; none: the latest interval is the first
    LLM4MSR_END          no interval begins then or later; none: it goes on for ever
    LLM4MSR_CATCHUP      true: every interval since the last run gets a run of its own; false: the next run takes them in
                         together. true by default where LLM4MSR_START is set
    LLM4MSR_RETRY_DELAY  seconds before a failed stage is tried again, 60 by default; the second retry waits longer

Each run takes in what no earlier run covers (`--catch-up`), so the first one takes the whole log up to its end, and no
day is lost while the DAG is paused. An interval without rows is skipped.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections import deque
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, BaseOperatorLink, CronDataIntervalTimetable
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

USER_MISTAKE = 2
NOTHING_TO_DO = 3
LAST_LINES = 15
KILL_AFTER_SECONDS = 20


class ArtifactLink(BaseOperatorLink):
    """A page about what the task made; see plugins/llm4msr_artifacts.py."""

    name = "Artifact"
    page = ""

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The page's address; empty while the task has made nothing."""
        from airflow.configuration import conf

        made = getattr(operator, "made", None)
        if made is None:
            return ""
        base = conf.get("api", "base_url", fallback="").rstrip("/")
        return f"{base}/llm4msr/artifacts/{operator.stage}/{Path(made['artifact']).name}/{self.page}"


class ReportLink(ArtifactLink):
    """The report of the task's window."""

    name = "Report"
    page = "report"


class VerdictLink(ArtifactLink):
    """What promotion said about the task's window."""

    name = "Verdict"
    page = "verdict"


class StageOperator(BaseOperator):
    """Run one stage of the product for the data interval and pass its output on to the task's log.

    Args:
        stage: the stage's name on the command line.
        start: start of the window, ISO 8601; the data interval's by default.
        end: end of the window, ISO 8601; the data interval's by default.

    Returns:
        The artifact's folder and digest.

    Raises:
        AirflowSkipException: the interval holds no rows (exit code 3).
        AirflowFailException: the stage says that input or settings must change (exit code 2); a retry cannot help.
        AirflowException: the stage failed otherwise; Airflow retries it, and it takes up where it left off.
    """

    template_fields = ("start", "end")
    operator_extra_links = (ArtifactLink(), ReportLink(), VerdictLink())

    def __init__(
        self,
        *,
        stage: str,
        start: str = "{{ data_interval_start | ts }}",
        end: str = "{{ data_interval_end | ts }}",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.stage = stage
        self.start = start
        self.end = end

    def execute(self, context: Any) -> dict[str, str] | None:
        """Run the command to its end."""
        window = ["--start", self.start, "--end", self.end, "--catch-up"]
        command = [*_command(), self.stage, "--settings", _settings_file(), *window]
        self.log.info("running %s", shlex.join(command))
        last: deque[str] = deque(maxlen=LAST_LINES)
        self._process = _start(command)
        try:
            for line in self._process.stdout or ():
                last.append(line.rstrip())
                self.log.info("%s", last[-1])
            code = self._process.wait()
        finally:
            self.on_kill()
        if code == NOTHING_TO_DO:
            raise AirflowSkipException(last[-1] if last else f"stage {self.stage} had nothing to do")
        if code:
            kind = AirflowFailException if code == USER_MISTAKE else AirflowException
            raise kind(f"stage {self.stage} ended with exit code {code}:\n" + "\n".join(last))
        self.made = _made(last[-1] if last else "")
        return self.made

    def on_kill(self) -> None:
        """Stop the command and what it started; called when the task is cancelled or runs out of time."""
        process: subprocess.Popen[str] | None = getattr(self, "_process", None)
        if process is None or process.poll() is not None:
            return
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(KILL_AFTER_SECONDS)
                return


def _made(line: str) -> dict[str, str] | None:
    """The artifact that a stage names in its last line; `report` names the page in it."""
    if line.endswith("/report.html"):
        folder = Path(line).parent
        return {"artifact": str(folder), "digest": json.loads((folder / "manifest.json").read_text())["digest"]}
    found = re.fullmatch(r"(\S.*)\t([0-9a-f]{64})", line)
    return {"artifact": found[1], "digest": found[2]} if found else None


def _time(variable: str) -> datetime | None:
    """A time from the environment; without a zone it is UTC."""
    text = os.environ.get(variable)
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{variable} is {text!r}; write a time as 2026-11-01 or 2026-11-01T00:00:00+00:00") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _catchup() -> bool:
    text = os.environ.get("LLM4MSR_CATCHUP", "").lower() or str(START is not None).lower()
    if text not in ("true", "false"):
        raise ValueError(f"LLM4MSR_CATCHUP is {text!r}; it is true or false")
    return text == "true"


def _retry_delay() -> timedelta:
    text = os.environ.get("LLM4MSR_RETRY_DELAY") or "60"
    try:
        return timedelta(seconds=float(text))
    except ValueError:
        raise ValueError(f"LLM4MSR_RETRY_DELAY is {text!r}; it is a number of seconds") from None


def _command() -> list[str]:
    own = Path(sys.prefix) / "bin" / "llm4msr"
    return shlex.split(os.environ.get("LLM4MSR_COMMAND", "")) or [str(own)]


def _settings_file() -> str:
    default = Path(__file__).resolve().parent.parent / "config" / "production.yaml"
    return os.environ.get("LLM4MSR_SETTINGS") or str(default)


def _start(command: list[str]) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise AirflowFailException(f"{command[0]} cannot be run ({error}); set LLM4MSR_COMMAND") from error


def _graph() -> Any:
    """pipeline/graph.py of this repository, whatever else is called `pipeline` here."""
    path = Path(__file__).resolve().parent.parent / "pipeline" / "graph.py"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: keep the folder dags/ beside pipeline/, as in the repository")
    spec = importlib.util.spec_from_file_location("llm4msr_graph", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


GRAPH = _graph()
START, END = _time("LLM4MSR_START"), _time("LLM4MSR_END")

with DAG(
    dag_id="llm4msr",
    description="Ingest, validate, refresh knowledge and features, retrain, compare, promote",
    doc_md=__doc__,
    schedule=CronDataIntervalTimetable(os.environ.get("LLM4MSR_SCHEDULE", "0 0 * * *"), timezone="UTC"),
    start_date=START or datetime(1995, 1, 1, tzinfo=UTC),
    # Airflow's own end is the last start of an interval.
    end_date=END - timedelta(microseconds=1) if END else None,
    catchup=_catchup(),
    max_active_runs=1,
    default_args={
        "retries": 2,
        "retry_delay": _retry_delay(),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=15),
    },
    tags=["llm4msr"],
) as dag:
    tasks: dict[str, StageOperator] = {}
    for name in GRAPH.run_order():
        limit = timedelta(minutes=GRAPH.GRAPH[name].minutes)
        tasks[name] = StageOperator(task_id=name, stage=name, execution_timeout=limit)
        for earlier in GRAPH.waits_for(name):
            tasks[earlier] >> tasks[name]
