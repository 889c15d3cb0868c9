"""The planted faults are forty, independent of the gates that must find them, and really alter files."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from benchmarks import data_faults, planted_faults
from benchmarks.planted_faults import FAULTS, Place


def test_the_planting_module_imports_no_gate():
    tree = ast.parse(Path(planted_faults.__file__).read_text())
    rooms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    rooms |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert not [room for room in rooms if room and room.split(".")[0] == "validation"]


def test_there_are_forty_faults_of_three_growing_sizes():
    assert len(FAULTS) == len({fault.name for fault in FAULTS}) == 40
    assert all(len(set(fault.sizes)) == 3 and list(fault.sizes) == sorted(fault.sizes) for fault in FAULTS)
    assert {fault.gate for fault in FAULTS} == {"source", "knowledge", "dataset", "online"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return data_faults.make_world(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.gate == "source"], ids=lambda fault: fault.name)
def test_the_smallest_size_alters_a_table(world, fault, tmp_path):
    before, clean = world.day(0), world.day(1)
    for file in clean.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    start = data_faults.BEGIN + data_faults.DAY
    place = Place(tmp_path, before, start, start + data_faults.DAY)
    fault.plant(place, fault.sizes[0], np.random.default_rng(0))
    assert any((tmp_path / file.name).read_bytes() != file.read_bytes() for file in clean.iterdir())
