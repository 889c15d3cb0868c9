"""Refresh and retrain on schedule. Thin: every task is one stage of the command line, for the run's data interval.

The file imports nothing of the product, so the scheduler needs neither torch nor Feast, and parsing stays cheap.

    LLM4MSR_SETTINGS   the settings file, read when a task runs; config/production.yaml beside this folder by default
    LLM4MSR_COMMAND    the command to run, with its arguments; the console script beside this interpreter by default
    LLM4MSR_SCHEDULE   a cron expression, `0 0 * * *` (whole days, UTC) by default
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections import deque
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, CronDataIntervalTimetable, chain
from airflow.sdk.exceptions import AirflowException, AirflowFailException

# Stage and the longest it may take, in minutes, in the order of a run.
STAGES = {
    "ingest": 120,
    "validate": 60,
    "features": 120,
    "knowledge": 720,
    "materialize": 240,
    "dataset": 120,
    "train": 720,
    "evaluate": 120,
    "promote": 30,
    "report": 30,
}
USER_MISTAKE = 2
LAST_LINES = 15
KILL_AFTER_SECONDS = 20


class StageOperator(BaseOperator):
    """Run one stage of the product for the data interval and pass its output on to the task's log.

    Args:
        stage: the stage's name on the command line.
        start: start of the window, ISO 8601; the data interval's by default.
        end: end of the window, ISO 8601; the data interval's by default.

    Raises:
        AirflowFailException: the stage says that input or settings must change (exit code 2); a retry cannot help.
        AirflowException: the stage failed otherwise; Airflow retries it, and it takes up where it left off.
    """

    template_fields = ("start", "end")

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

    def execute(self, context: Any) -> None:
        """Run the command to its end."""
        command = [*_command(), self.stage, "--settings", _settings_file(), "--start", self.start, "--end", self.end]
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
        if code:
            kind = AirflowFailException if code == USER_MISTAKE else AirflowException
            raise kind(f"stage {self.stage} ended with exit code {code}:\n" + "\n".join(last))

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


with DAG(
    dag_id="llm4msr",
    description="Ingest, validate, refresh knowledge and features, retrain, compare, promote",
    doc_md=__doc__,
    schedule=CronDataIntervalTimetable(os.environ.get("LLM4MSR_SCHEDULE", "0 0 * * *"), timezone="UTC"),
    start_date=datetime(1995, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={
        "retries": 2,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=15),
    },
    tags=["llm4msr"],
) as dag:
    chain(
        *(
            StageOperator(task_id=stage, stage=stage, execution_timeout=timedelta(minutes=minutes))
            for stage, minutes in STAGES.items()
        )
    )
