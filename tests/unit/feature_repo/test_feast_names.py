from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["overlay", "reader"])
def test_importing_feast_leaves_the_process_as_it_was_and_its_classes_unchecked(module):
    """Whichever module comes first; Feast's own import sets a variable and instruments its classes."""
    code = f"""
import os, sys, typeguard
before = typeguard.typechecked
import feature_repo.{module}, feast
from prometheus_client.values import ValueClass
print("PROMETHEUS_MULTIPROC_DIR" in os.environ, "Mmap" in ValueClass.__name__, "torch" in sys.modules, typeguard.typechecked is before, sorted(
    name for one in (feast.Entity, feast.FeatureView, feast.FeatureService, feast.OnDemandFeatureView)
    for name in one.__init__.__code__.co_names if name.startswith("check_")))
"""
    clean = {key: value for key, value in os.environ.items() if key != "PROMETHEUS_MULTIPROC_DIR"}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True)
    assert done.stdout.strip() == "False False False True []", done.stderr


def test_feast_still_does_all_of_it_so_that_passing_it_by_is_worth_its_lines():
    code = """
import feast, sys
print([name for name in feast.Entity.__init__.__code__.co_names if name.startswith("check_")] != [], "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "True True", done.stderr


def test_features_can_still_be_had_as_tensors():
    code = """
import feature_repo.overlay, sys
from feast.infra.offline_stores.offline_store import get_torch
print(get_torch().zeros(2).tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[0.0, 0.0]", done.stderr
