from __future__ import annotations

import subprocess
import sys

HEAVY = ("bentoml", "feast", "great_expectations", "matplotlib", "mlflow", "pandas", "ray", "scipy", "sklearn", "torch")


def test_a_command_imports_none_of_the_heavy_libraries_before_its_stage_needs_them():
    """On a schedule each stage is a process of its own."""
    code = f"import sys, pipeline.cli, pipeline.run; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
