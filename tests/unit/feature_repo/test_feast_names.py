from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["overlay", "reader"])
def test_importing_feast_leaves_the_process_as_it_was_and_its_classes_unchecked(module):
    """Whichever module comes first; Feast's own import sets a variable and instruments its classes."""
    code = f"""
import os, typeguard
before = typeguard.typechecked
import feature_repo.{module}, feast
print("PROMETHEUS_MULTIPROC_DIR" in os.environ, typeguard.typechecked is before, sorted(
    name for one in (feast.Entity, feast.FeatureView, feast.FeatureService, feast.OnDemandFeatureView)
    for name in one.__init__.__code__.co_names if name.startswith("check_")))
"""
    clean = {key: value for key, value in os.environ.items() if key != "PROMETHEUS_MULTIPROC_DIR"}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True)
    assert done.stdout.strip() == "False True []", done.stderr


def test_feast_still_instruments_its_classes_so_that_passing_it_by_is_worth_its_lines():
    code = "import feast; print([n for n in feast.Entity.__init__.__code__.co_names if n.startswith('check_')] != [])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr
