"""`llm4msr bench --help` names the benchmarks, and a benchmark's own `--help` is not swallowed."""

import sys

import pytest
from typer.testing import CliRunner

from core.digest import REPOSITORY
from pipeline.cli import app


@pytest.mark.parametrize("arguments", [["bench"], ["bench", "--help"]])
def test_help_names_every_benchmark_that_can_be_run(arguments):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    named = {line.split()[0] for line in result.output.splitlines() if line.startswith("  ")}
    assert named == {file.stem for file in (REPOSITORY / "benchmarks").glob("*.py") if "__main__" in file.read_text()}


def test_a_benchmark_explains_its_own_options(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["llm4msr"])
    result = CliRunner().invoke(app, ["bench", "data_faults", "--help"])
    assert result.exit_code == 0
    assert "--quick" in result.output and "planted" in result.output
