from __future__ import annotations

import subprocess
import sys

HEAVY = ("bentoml", "feast", "great_expectations", "matplotlib", "mlflow", "pandas", "ray", "scipy", "sklearn", "torch")


def test_a_command_imports_none_of_the_heavy_libraries_before_its_stage_needs_them():
    """On a schedule each stage is a process of its own."""
    code = f"import sys, pipeline.cli, pipeline.run; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_module_is_the_command() -> None:
    """As `torchrun -m pipeline.cli` starts it; it must not do nothing and end well."""
    done = subprocess.run([sys.executable, "-m", "pipeline.cli", "no-such-command"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no-such-command" in done.stderr
