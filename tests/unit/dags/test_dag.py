"""The DAG, loaded and run in processes of its own: Airflow's import changes logging and the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
DAGS = REPOSITORY / "dags"
DIGEST = "ab" * 32
STAGES = [
    "ingest",
    "validate",
    "features",
    "knowledge",
    "materialize",
    "dataset",
    "train",
    "evaluate",
    "promote",
    "controls",
    "report",
]
ROOMS = ["core", "ingest", "knowledge", "validation", "feature_repo", "models", "bento", "pipeline"]
HEAVY = ["torch", "torchrec", "feast", "great_expectations", "bentoml", "mlflow", "transformers", "pandas", "pyarrow"]
PARSE_LIMIT_SECONDS = 0.3

LOAD = f"""
import importlib.util, json, sys, time
import airflow.sdk
known, start = set(sys.modules), time.process_time()
spec = importlib.util.spec_from_file_location("llm4msr_dag", {str(DAGS / "llm4msr_dag.py")!r})
module = importlib.util.module_from_spec(spec)
sys.modules["llm4msr_dag"] = module
spec.loader.exec_module(module)
seconds, added = time.process_time() - start, sorted(set(sys.modules) - known)
"""


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory):
    """Run Python source in a process with its own Airflow home; its last line of output is JSON."""
    home = tmp_path_factory.mktemp("airflow")

    def run(source: str, **variables: str) -> dict:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "LLM4MSR_"))}
        env |= {"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", **variables}
        done = subprocess.run([sys.executable, "-c", source], env=env, capture_output=True, text=True, cwd=home)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="module")
def dag(airflow) -> dict:
    return airflow(
        LOAD
        + textwrap.dedent(
            """
            dag = module.dag
            print(json.dumps({
                "order": [t.task_id for t in dag.topological_sort()],
                "edges": sorted([a, b] for a, t in dag.task_dict.items() for b in t.downstream_task_ids),
                "catchup": dag.catchup, "max_active_runs": dag.max_active_runs,
                "timetable": type(dag.timetable).__name__,
                "retries": [t.retries for t in dag.tasks],
                "backoff": [t.retry_exponential_backoff for t in dag.tasks],
                "timeouts": [t.execution_timeout.total_seconds() for t in dag.tasks],
                "fields": [list(t.template_fields) for t in dag.tasks],
            }))
            """
        )
    )


@pytest.fixture
def recorder(tmp_path: Path) -> tuple[str, Path]:
    """A command that appends its arguments to a file, says two things, and ends with exit code $CODE."""
    record, script = tmp_path / "calls.jsonl", tmp_path / "command.py"
    script.write_text(
        "import json, os, sys\n"
        f"open({str(record)!r}, 'a').write(json.dumps(sys.argv[1:]) + chr(10))\n"
        "print('reading rows', flush=True)\n"
        "print('file ratings.csv, row 7: no such scenario', file=sys.stderr)\n"
        f"os.environ.get('CODE') or print('/data/objects/ingest/0123456789abcdef\\t{DIGEST}')\n"
        "sys.exit(int(os.environ.get('CODE', '0')))\n"
    )
    return f"{sys.executable} {script}", record


def execute(timeout: str = "None") -> str:
    return LOAD + textwrap.dedent(
        f"""
        import logging, signal
        from airflow.sdk.execution_time.timeout import timeout
        lines = []
        class Keep(logging.Handler):
            def emit(self, record): lines.append(record.getMessage())
        task = module.StageOperator(task_id="ingest", stage="ingest", start="2000-01-01T00:00:00+00:00",
                                    end="2000-01-02T00:00:00+00:00")
        class Log:
            def info(self, text, *args):
                lines.append(text % args)
                if lines[-1] == "out of time":
                    signal.setitimer(signal.ITIMER_REAL, 0.1)
            warning = error = debug = info
        type(task).log = Log()
        error = made = None
        try:
            if {timeout} is None:
                made = task.execute({{}})
            else:
                with timeout({timeout}):
                    task.execute({{}})
        except BaseException as raised:
            error = [type(raised).__name__, str(raised)]
        links = {{link.name: link.get_link(task, ti_key=None) for link in task.operator_extra_links}}
        print(json.dumps({{"lines": lines, "error": error, "made": made, "links": links,
                           "alive": task._process.poll() is None}}))
        """
    )


def test_the_dag_bag_loads_without_import_errors(airflow):
    bag = airflow(
        "import json\n"
        "from airflow.dag_processing.dagbag import DagBag\n"
        f"bag = DagBag({str(DAGS)!r})\n"
        "print(json.dumps([list(bag.dags), {str(k): v for k, v in bag.import_errors.items()}]))\n"
    )
    assert bag == [["llm4msr"], {}]


def test_the_stages_follow_one_another_in_the_order_of_a_run(dag):
    assert sorted(dag["order"]) == sorted(STAGES)
    line = ["ingest", "validate"], ["dataset", "train"], ["train", "evaluate"], ["evaluate", "promote"]
    fork = [[a, b] for a in ("features", "knowledge") for b in ("dataset", "materialize")]
    start = [["validate", "features"], ["validate", "knowledge"]]
    end = [["materialize", "promote"], ["promote", "controls"], ["controls", "report"]]
    assert dag["edges"] == sorted([*line, *fork, *start, *end])


def test_runs_own_whole_intervals_and_never_overlap(dag):
    assert (dag["timetable"], dag["catchup"], dag["max_active_runs"]) == ("CronDataIntervalTimetable", False, 1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["1995-01-01T00:00:00+00:00", None, False]),
        ({"START": "2012-01-01"}, ["2012-01-01T00:00:00+00:00", None, True]),
        ({"START": "2012-01-01", "CATCHUP": "False"}, ["2012-01-01T00:00:00+00:00", None, False]),
        (
            {"START": "2012-01-01T02:00:00+02:00", "END": "2018-01-01", "CATCHUP": "true"},
            ["2012-01-01T00:00:00+00:00", "2017-12-31T23:59:59.999999+00:00", True],
        ),
    ],
)
def test_the_environment_says_when_the_schedule_begins_and_ends_and_whether_it_catches_up(airflow, given, expected):
    source = """
dag = module.dag
times = [time and time.astimezone(module.UTC).isoformat() for time in (dag.start_date, dag.end_date)]
print(json.dumps([*times, dag.catchup]))
"""
    assert airflow(LOAD + source, **{f"LLM4MSR_{name}": value for name, value in given.items()}) == expected


@pytest.mark.parametrize(
    ("name", "value"), [("START", "yesterday"), ("END", "2018-13-01"), ("CATCHUP", "maybe"), ("RETRY_DELAY", "soon")]
)
def test_a_schedule_that_cannot_be_understood_is_an_import_error_that_names_the_variable(airflow, name, value):
    errors = airflow(
        "import json\n"
        "from airflow.dag_processing.dagbag import DagBag\n"
        f"print(json.dumps(list(DagBag({str(DAGS)!r}).import_errors.values())))\n",
        **{f"LLM4MSR_{name}": value},
    )
    assert f"LLM4MSR_{name} is {value!r}" in errors[0]


def test_every_task_retries_and_is_bounded_below_its_token(dag):
    lines = (REPOSITORY / "config" / "airflow.env").read_text().splitlines()
    tokens = [int(line.split("=")[1]) for line in lines if "JWT_EXPIRATION_TIME" in line]
    assert min(dag["retries"]) >= 1
    # A factor; True would be the factor 1.
    assert min(dag["backoff"]) > 1
    assert len(tokens) == 2
    assert max(dag["timeouts"]) < min(tokens)


def test_parsing_imports_nothing_heavy_and_no_room(airflow):
    added = airflow(LOAD + "print(json.dumps(added))")
    assert "airflow.sdk.definitions.timetables.interval" in added
    assert {name.split(".")[0] for name in added} & {*HEAVY, *ROOMS} == set()


def test_parsing_costs_at_most_the_limit_beyond_the_sdk_itself(airflow):
    seconds = [airflow(LOAD + "print(json.dumps(seconds))") for _ in range(5)]
    assert min(seconds) <= PARSE_LIMIT_SECONDS, seconds


def test_a_task_runs_its_stage_for_its_window_and_streams_the_output(airflow, recorder):
    command, record = recorder
    done = airflow(execute(), LLM4MSR_COMMAND=command, LLM4MSR_SETTINGS="/etc/llm4msr.yaml")
    window = ["--start", "2000-01-01T00:00:00+00:00", "--end", "2000-01-02T00:00:00+00:00"]
    assert json.loads(record.read_text()) == ["ingest", "--settings", "/etc/llm4msr.yaml", *window, "--catch-up"]
    assert done["error"] is None
    assert "reading rows" in done["lines"]


@pytest.mark.parametrize(("code", "kind"), [("1", "AirflowException"), ("2", "AirflowFailException")])
def test_only_a_users_mistake_fails_for_good_and_both_show_the_message(airflow, recorder, code, kind):
    command, _ = recorder
    done = airflow(execute(), LLM4MSR_COMMAND=command, CODE=code)
    assert done["error"][0] == kind
    assert "file ratings.csv, row 7: no such scenario" in done["error"][1]


def test_a_task_returns_the_artifact_that_its_stage_made_and_links_it_with_report_and_verdict(airflow, recorder):
    command, _ = recorder
    done = airflow(execute(), LLM4MSR_COMMAND=command, AIRFLOW__API__BASE_URL="http://airflow.example.com/prefix/")
    assert done["made"] == {"artifact": "/data/objects/ingest/0123456789abcdef", "digest": DIGEST}
    page = "http://airflow.example.com/prefix/llm4msr/artifacts/ingest/0123456789abcdef/"
    assert done["links"] == {"Artifact": page, "Report": page + "report", "Verdict": page + "verdict"}


def test_an_interval_without_rows_is_skipped_and_links_nothing(airflow, recorder):
    command, _ = recorder
    done = airflow(execute(), LLM4MSR_COMMAND=command, CODE="3")
    assert done["error"] == ["AirflowSkipException", "file ratings.csv, row 7: no such scenario"]
    assert set(done["links"].values()) == {""}


def test_a_command_that_is_missing_fails_for_good_and_says_what_to_set(airflow):
    done = airflow(execute().replace("task._process.poll() is None", "None"), LLM4MSR_COMMAND="/nowhere/llm4msr")
    assert done["error"][0] == "AirflowFailException"
    assert "LLM4MSR_COMMAND" in done["error"][1]


def test_a_task_out_of_time_leaves_no_process_behind(airflow):
    # Its time ends while it waits for the next line.
    done = airflow(execute(timeout="600"), LLM4MSR_COMMAND="/bin/sh -c 'echo out of time; sleep 600'")
    assert done["error"][0] == "AirflowTaskTimeout"
    assert done["alive"] is False


def test_the_default_command_is_this_interpreters_own_and_settings_stand_beside(airflow):
    found = airflow(LOAD + "print(json.dumps([module._command(), module._settings_file()]))")
    assert found == [[str(Path(sys.prefix) / "bin" / "llm4msr")], str(REPOSITORY / "config" / "production.yaml")]
