"""What `make airflow` does before it starts anything."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import SettingsError
from dags.local import COMMON, environment, main, variables

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def settings(tmp_path) -> Path:
    (tmp_path / "mine.env").write_text("# nightly\nLLM4MSR_SCHEDULE=0 3 * * *\n\nLLM4MSR_START = 2026-11-01\n")
    (tmp_path / "mine.yaml").write_text("root: root\n")
    return tmp_path / "mine.yaml"


def test_the_schedule_lies_beside_the_settings_and_the_environment_goes_first(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("LLM4MSR_START", "2026-01-01")
    monkeypatch.delenv("LLM4MSR_SCHEDULE", raising=False)
    monkeypatch.setenv("AIRFLOW__CORE__PARALLELISM", "9")
    env = environment(settings, tmp_path / "home", 8123)
    assert (env["LLM4MSR_SCHEDULE"], env["LLM4MSR_START"]) == ("0 3 * * *", "2026-01-01")
    assert (env["AIRFLOW__CORE__PARALLELISM"], env["AIRFLOW__CORE__LOAD_EXAMPLES"]) == ("9", "False")
    assert env["LLM4MSR_SETTINGS"] == str(settings)
    assert env["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:8123/execution/"


def test_a_proxy_does_not_come_between_airflows_own_processes(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "example.com")
    monkeypatch.setenv("no_proxy", "example.com")
    env = environment(settings, tmp_path, 8123)
    assert all({"127.0.0.1", "example.com"} <= set(env[name].split(",")) for name in ("NO_PROXY", "no_proxy"))


def test_a_line_that_is_no_variable_is_named(tmp_path):
    (tmp_path / "a.env").write_text("A=1\nSTART 2026\n")
    with pytest.raises(SettingsError, match=r"a\.env, line 2: 'START 2026' is not NAME=VALUE"):
        variables(tmp_path / "a.env")


def test_a_port_in_use_is_one_sentence_that_says_what_to_type(settings, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["--settings", str(settings), "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert f"port {port} cannot be used" in said
    assert "make airflow PORT=" in said


def test_a_second_airflow_of_the_same_root_is_refused(settings, tmp_path, capsys):
    home = tmp_path / "root" / "airflow"
    home.mkdir(parents=True)
    with (home / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert main(["--settings", str(settings), "--port", "0"]) == 2
    assert f"already runs from {home}" in capsys.readouterr().err


def test_settings_that_are_not_there_are_named(tmp_path, capsys):
    assert main(["--settings", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml does not exist" in capsys.readouterr().err


def test_what_the_demo_shows_is_a_history_and_five_intervals_and_what_ships_can_be_read():
    shown = variables(REPOSITORY / "config" / "airflow-demo.env")
    first, last = (int(shown[f"LLM4MSR_{name}"][:4]) for name in ("START", "END"))
    assert (last - first, shown["LLM4MSR_SCHEDULE"]) == (1 + 5, "0 0 1 1 *")
    assert len(variables(COMMON)) > 3


def test_make_hands_over_the_port_and_the_users_settings():
    make = ["make", "-n", "-C", str(REPOSITORY), "-o", ".venv/.ready", "airflow", "PORT=8090"]
    env = {key: value for key, value in os.environ.items() if key not in ("SETTINGS", "MAKEFLAGS")}
    said = [
        subprocess.run([*make, *more], env=env, capture_output=True, text=True, check=True).stdout
        for more in ([], ["SETTINGS=mine.yaml"])
    ]
    assert "dags.local --port 8090 --settings config/airflow-demo.yaml" in said[0]
    assert "dags.local --port 8090 --settings mine.yaml" in said[1]


def test_importing_it_starts_nothing_and_needs_no_airflow():
    code = "import sys, dags.local; print('airflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
