"""What the README promises, on bare Debian systems with their own Python and nothing else."""

from __future__ import annotations

import re

import pytest
from images.bare_system import bare_system, need_room, need_tools

# Debian 13's Python 3.13 meets torch's CUDA build, where nobody hands in a CPU wheel for it.
SYSTEMS = [
    pytest.param("bookworm", "3.11", 8, id="debian12"),
    pytest.param("trixie", "3.13", 16, id="debian13"),
]
TESTS = "tests/unit/requirements tests/unit/core/test_store.py tests/unit/models/test_backbone_experts.py"


@pytest.mark.parametrize(("suite", "python", "gib"), SYSTEMS)
def test_a_fresh_clone_sets_itself_up_runs_the_demo_and_passes_tests(suite, python, gib):
    need_tools()
    need_room(gib)
    with bare_system(suite) as system:
        assert "make demo" in system.run("make")
        system.kill_at("make demo", "installing")
        said = system.run("make setup")
        assert re.search(rf"Python {python}\.\d+", said)
        assert "make demo" in said.splitlines()[-1], "the last words say what is next"
        again = system.run("make setup", offline=True)
        assert "installing" not in again
        assert "llm4msr" in system.run(".venv/bin/llm4msr --version", offline=True)
        shown = system.run("make demo", offline=True)
        assert "/rank" in shown
        assert "/explain" in shown
        tests = system.run(f'make test ARGS="{TESTS} -q"', offline=True)
        assert re.search(r"\d+ passed", tests)
        assert " failed" not in tests
