"""The schedule on the real thing: PostgreSQL below, LocalExecutor, and the four processes that `make airflow` starts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import REPOSITORY, WAIT, Project
from postgres_database import own_database

from core import Window, load_settings, to_micros
from pipeline.commands.serve import example_request, running_service

pytestmark = pytest.mark.e2e
STAGES = ["ingest", "validate", "features", "knowledge", "materialize", "dataset"]
STAGES += ["train", "evaluate", "promote", "controls", "report"]
DAYS = [f"2024-03-0{day}" for day in range(1, 7)]
FIRST, SECOND, EMPTY, BAD, LAST, END = DAYS
# The log of each day; the first run takes in February before it. A file is bad until it is mended, and the last run takes it in.
ROWS = {FIRST: 120, SECOND: 130, EMPTY: 0, BAD: 110, LAST: 100}
HISTORY = 600
USERS, ITEMS = 30, 40


def write_log(folder: Path, day: str, until: str, rows: int, wrong: float = 0.0) -> None:
    """One file of the log; `wrong` is the share of rows whose scenario was never declared."""
    rng = np.random.default_rng(int(day.replace("-", "")))
    window = Window.parse(day, until)
    assert window.start is not None and window.end is not None
    low, high = to_micros(window.start), to_micros(window.end)
    users, items = rng.integers(1, USERS + 1, rows), rng.integers(1, ITEMS + 1, rows)
    scenarios = np.where(rng.random(rows) < wrong, "kiosk", np.where(rng.random(rows) < 0.5, "feed", "search"))
    table = {
        "user_id": users,
        "item_id": items,
        "surface": scenarios,
        "ts": pa.array(np.sort(rng.choice((high - low) // 1000, rows, replace=False)) * 1000 + low, pa.timestamp("us")),
        "clicked": ((users + items) % 3 == 0) ^ (rng.random(rows) < 0.1),
    }
    pq.write_table(pa.table(table), folder / f"{day}.parquet")


def make_shop(folder: Path) -> Project:
    """A log of a file a day, and settings that keep a stage to seconds."""
    events = folder / "data" / "events"
    events.mkdir(parents=True)
    write_log(events, "2024-02-01", FIRST, HISTORY)
    for number, day in enumerate(ROWS):
        write_log(events, day, DAYS[number + 1], ROWS[day], wrong=0.6 if day == BAD else 0.0)
    items = {"item_id": range(1, ITEMS + 1), "title": [f"Lamp number {n}" for n in range(1, ITEMS + 1)]}
    pq.write_table(pa.table({name: list(values) for name, values in items.items()}), folder / "data" / "items.parquet")
    body = {
        "project": "shop",
        "root": "root",
        "clock": {"mode": "replay", "at": "window_end"},
        "data": {
            "source": "table",
            "path": "data",
            "files": {"interactions": "events", "items": "items.parquet"},
            "columns": {"event_timestamp": "ts"},
            "label": {"column": "clicked", "op": "is"},
            "scenario": {"rule": "column", "column": "surface"},
            "scenarios": {
                "feed": {"title": "Feed", "description": "Recommendations on the home screen."},
                "search": {"title": "Search", "description": "Results of a typed query."},
            },
        },
        "split": {"kind": "per_user_tail", "warmup": 0.1, "validation": 0.1, "test": 0.2},
        "train": {"epochs": 1},
        "promotion": {
            **{"min_users": 5, "min_positives": 5, "margin": 1, "loss_margin": 10, "resamples": 100},
            **{"challenger": "knowledge", "floor": "none"},
        },
        "serving": {"poll_seconds": 0.2},
        "online": {"timeout_ms": 60_000},
    }
    (folder / "llm4msr.yaml").write_text(yaml.safe_dump(body))
    schedule = {"SCHEDULE": "0 0 * * *", "START": FIRST, "END": END, "RETRY_DELAY": "2"}
    (folder / "llm4msr.env").write_text("".join(f"LLM4MSR_{name}={value}\n" for name, value in schedule.items()))
    return Project(folder)


@dataclass
class Airflow:
    """A running Airflow and its REST API."""

    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for line in self.process.stdout or ():
            self.said.append(line.rstrip())
            if "Ctrl-C here ends everything" in line:
                break
        facts = dict(line.split(maxsplit=1) for line in self.said if re.match(r"  \w+  ", line))
        self.url = facts["open"].removesuffix("/dags/llm4msr")
        login = {"username": facts["user"], "password": facts["password"]}
        token = httpx.post(f"{self.url}/auth/token", json=login, timeout=WAIT).raise_for_status().json()
        self.client = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {token['access_token']}"}, timeout=WAIT
        )

    def call(self, method: str, path: str, **body: Any) -> Any:
        answer = self.client.request(method, f"/api/v2{path}", json=body or None)
        assert answer.is_success, answer.text
        return answer.json()

    def run_state(self, day: str) -> str | None:
        """Of the run of the interval that starts on a day, which is looked at from now on."""
        for run in self.call("GET", "/dags/llm4msr/dagRuns")["dag_runs"]:
            if run["data_interval_start"].startswith(day):
                self.run_id = run["dag_run_id"]
                return str(run["state"])
        return None

    def states(self, day: str) -> dict[str, str | None]:
        """Of the tasks of the interval that starts on a day; the run itself is `run`."""
        state = self.run_state(day)
        tasks = self.call("GET", f"/dags/llm4msr/dagRuns/{self.run_id}/taskInstances")["task_instances"]
        return {**{task["task_id"]: task["state"] for task in tasks}, "run": state}

    def wait_for(self, day: str) -> dict[str, str | None]:
        """The states once the run has ended."""
        wait(lambda: self.run_state(day) in ("success", "failed"), f"the run of {day} to end", self.process)
        return self.states(day)

    def run_again(self, day: str) -> dict[str, str | None]:
        """Clear the run of an interval, and the states once it has ended."""
        self.run_state(day)
        self.call("POST", f"/dags/llm4msr/dagRuns/{self.run_id}/clear", dry_run=False)
        return self.wait_for(day)

    def backfill(self, day: str) -> dict[str, str | None]:
        """Backfill one interval, whatever became of it before, and the states once it has ended."""
        times = {"from_date": f"{day}T00:00:00Z", "to_date": f"{day}T00:00:00Z"}
        how = {"reprocess_behavior": "completed", "max_active_runs": 1}
        made = self.call("POST", "/backfills", dag_id="llm4msr", **how, **times)
        ended = lambda: self.call("GET", f"/backfills/{made['id']}")["completed_at"]  # noqa: E731
        wait(ended, f"the backfill of {day} to end", self.process)
        return self.states(day)

    def log(self, task: str) -> str:
        """Of the first try of a task of the run that was looked at last."""
        return json.dumps(self.call("GET", f"/dags/llm4msr/dagRuns/{self.run_id}/taskInstances/{task}/logs/1"))

    def tries(self, task: str) -> int:
        return self.call("GET", f"/dags/llm4msr/dagRuns/{self.run_id}/taskInstances/{task}")["try_number"]


def wait(condition: Callable[[], Any], what: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert process.poll() is None, f"Airflow ended while the test waited for {what}"
        assert time.monotonic() < deadline, f"the test waited in vain for {what}"
        time.sleep(0.5)


@contextmanager
def running_airflow(settings: Path, database: str) -> Iterator[Airflow]:
    """Airflow as `make airflow` starts it, on a free port and another database than SQLite."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "LLM4MSR_"))}
    env |= {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database, "OMP_NUM_THREADS": "1"}
    # Forty tasks follow one another; the scheduler would rest a second before each.
    env |= {"AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3"}
    process = subprocess.Popen(
        [sys.executable, "-m", "dags.local", "--settings", settings, "--port", "0"],
        env=env,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Airflow(process)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(WAIT)


def kill_task(project: Project, airflow: Airflow, stage: str, day: str) -> None:
    """SIGKILL a stage in the middle of its work, with the task that waits for it."""
    found: list[psutil.Process] = []

    def at_work() -> bool:
        found[:] = [
            one
            for one in psutil.Process(airflow.process.pid).children(recursive=True)
            if f"llm4msr {stage} " in (said := command_line(one)) and f"--start {day}" in said
        ]
        return bool(found) and any((project.root / "tmp").glob(f"{stage}-*"))

    wait(at_work, f"{stage} of {day} to be at work", airflow.process)
    task = found[0].parent()
    for one in (task, found[0]):
        one.kill()


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def published(project: Project, day: str = "") -> dict[str, str]:
    """Stage and window to the digest of its artifact, of the windows that begin on a day or of all."""
    refs = sorted(project.root.joinpath("refs").rglob(f"{day.replace('-', '')}*.json"))
    return {f"{p.parent.name}/{p.stem}": json.loads(p.read_text())["digest"] for p in refs if p.stem != "latest"}


def rows(project: Project, stage: str) -> dict[str, int]:
    """Window to the rows that a stage's artifact has of the log."""
    found = {}
    for ref in sorted(project.root.joinpath("refs", stage).glob("*.json")):
        folder = project.root / "objects" / stage / json.loads(ref.read_text())["object"]
        found[ref.stem] = json.loads((folder / "manifest.json").read_text())["rows"]["interactions"]
    return {window: count for window, count in found.items() if window != "latest"}


@dataclass
class Story:
    """What was seen while the schedule ran; the tests below tell its parts."""

    project: Project
    plain: Project
    plain_run: subprocess.CompletedProcess[str]
    scheduled: dict[str, dict[str, str | None]]
    tries: int
    linked: dict[str, bool]
    links: dict[str, str]
    pages: dict[str, httpx.Response]
    anonymous: httpx.Response
    before: dict[str, str]
    again: dict[str, str]
    repeated: dict[str, str | None]
    bad: dict[str, str | None]
    bad_log: str
    after_bad: dict[str, str | None]
    champion: dict[str, Any]
    answer: dict[str, Any]
    fixed: dict[str, str | None]
    left: list[psutil.Process]
    exit_code: int
    said: list[str]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    project, plain = (make_shop(tmp_path_factory.mktemp(name)) for name in ("scheduled", "plain"))
    seen: dict[str, Any] = {"project": project, "plain": plain}
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(1))
        plain_run = pool.submit(plain.command, "run", "--end", SECOND)
        database = stack.enter_context(own_database("psycopg2"))
        with running_airflow(project.file, database) as airflow:
            airflow.call("PATCH", "/dags/llm4msr", is_paused=False)
            kill_task(project, airflow, "knowledge", FIRST)
            seen["scheduled"] = {day: airflow.wait_for(day) for day in (FIRST, SECOND, EMPTY)}

            # While the rest of the schedule goes on.
            airflow.run_state(FIRST)
            seen["tries"] = airflow.tries("knowledge")
            airflow.run_state(SECOND)
            path = f"/dags/llm4msr/dagRuns/{airflow.run_id}/taskInstances"
            links = {stage: airflow.call("GET", f"{path}/{stage}/links")["extra_links"] for stage in STAGES}
            seen["linked"], seen["links"] = (
                {stage: all(found.values()) for stage, found in links.items()},
                links["validate"],
            )
            get = airflow.client.get
            seen["pages"] = {name: get(link, follow_redirects=True) for name, link in seen["links"].items()}
            seen["anonymous"] = httpx.get(seen["links"]["Artifact"], timeout=WAIT)

            seen["bad"] = airflow.wait_for(BAD)
            seen["bad_log"] = airflow.log("validate")
            seen["after_bad"] = airflow.wait_for(LAST)
            settings = load_settings(project.file)
            with running_service(settings, wait_seconds=WAIT) as service:
                user, scenario, _ = example_request(settings)
                body = {"user_id": user, "scenario": scenario, "k": 3}
                seen["answer"] = httpx.post(f"{service}/rank", json=body, timeout=WAIT).raise_for_status().json()
            seen["champion"] = json.loads((project.root / "serving" / "current.json").read_text())

            write_log(project.folder / "data" / "events", BAD, LAST, ROWS[BAD])
            seen["fixed"] = airflow.run_again(LAST)
            seen["before"] = published(project)
            seen["repeated"] = airflow.backfill(SECOND)
            seen["again"] = published(project)
            seen["plain_run"] = plain_run.result()
            family = psutil.Process(airflow.process.pid).children(recursive=True)
        seen["exit_code"] = airflow.process.returncode
        seen["left"] = psutil.wait_procs(family, timeout=0)[1]
        with running_airflow(project.file, database) as restarted:
            seen["said"] = [one.said[-1] for one in (airflow, restarted)]
        yield Story(**seen)


def test_every_scheduled_interval_runs_all_stages_and_one_without_rows_is_skipped(story):
    good = dict.fromkeys([*STAGES, "run"], "success")
    skipped = {**dict.fromkeys(STAGES, "skipped"), "ingest": "success", "run": "success"}
    assert story.scheduled == {FIRST: good, SECOND: good, EMPTY: skipped}


def test_each_intervals_rows_are_ingested_once_and_the_first_run_takes_in_the_history(story):
    found = rows(story.project, "validate")
    assert list(found.values()) == [ROWS[SECOND], ROWS[BAD] + ROWS[LAST], HISTORY + ROWS[FIRST]]
    keys = []
    for ref in story.project.root.joinpath("refs", "validate").glob("2*.json"):
        folder = story.project.root / "objects" / "validate" / json.loads(ref.read_text())["object"]
        columns = pq.read_table(folder / "interactions.parquet", columns=["user_id", "item_id", "event_timestamp"])
        keys += [tuple(row.values()) for row in columns.to_pylist()]
    assert len(keys) == len(set(keys)) == sum(ROWS.values()) - ROWS[FIRST]


def test_a_task_killed_with_sigkill_is_tried_again_and_ends_in_the_digests_of_a_run_that_never_was(story):
    assert story.tries == 2
    assert story.plain_run.returncode == 0, story.plain_run.stderr
    expected = published(story.plain)
    assert len(expected) > len(STAGES)
    assert {name: digest for name, digest in story.before.items() if name in expected} == expected


def test_a_second_backfill_of_an_interval_changes_nothing(story):
    assert story.repeated == dict.fromkeys([*STAGES, "run"], "success")
    assert story.again == story.before


def test_a_bad_file_stops_its_run_at_the_gate_says_so_in_the_log_and_the_champion_goes_on_serving(story):
    stopped = {**dict.fromkeys(STAGES, "upstream_failed"), "ingest": "success", "validate": "failed", "run": "failed"}
    assert story.bad == story.after_bad == stopped
    assert "the gate of table interactions stopped the run" in story.bad_log
    assert "kiosk" in story.bad_log
    assert story.champion["promoted_at"] <= f"{BAD}T00:00:00+00:00"
    assert story.answer["versions"]["version"] == story.champion["version"]
    assert len(story.answer["items"]) == 3


def test_the_next_run_after_the_fix_catches_up(story):
    assert story.fixed == dict.fromkeys([*STAGES, "run"], "success")
    window = Window.parse(BAD, END)
    assert rows(story.project, "ingest")[window.key] == ROWS[BAD] + ROWS[LAST]
    assert {name.split("/")[0] for name in published(story.project, BAD) if name.endswith(window.key)} > {*STAGES}


def test_a_tasks_page_links_its_artifact_the_report_and_the_verdict_for_who_may_see_the_dag(story):
    assert story.linked == dict.fromkeys(STAGES, True)
    assert set(story.links) == {"Artifact", "Report", "Verdict"}
    assert {name: page.status_code for name, page in story.pages.items()} == dict.fromkeys(story.links, 200)
    assert (
        published(story.project, SECOND)[f"validate/{Window.parse(SECOND, EMPTY).key}"] in story.pages["Artifact"].text
    )
    assert "run/data_docs/index.html" in story.pages["Artifact"].text
    assert story.pages["Report"].url.path.endswith("/report.html")
    assert "&quot;reason&quot;" in story.pages["Verdict"].text
    assert story.anonymous.status_code == 401


def test_ending_it_leaves_no_process_behind(story):
    assert story.exit_code == 0
    assert story.left == []


def test_its_last_words_say_to_switch_the_dag_on_until_it_is(story):
    first, second = story.said
    assert first.startswith("Switch the DAG llm4msr on")
    assert second.startswith("The DAG llm4msr is switched on and goes on where it was")
