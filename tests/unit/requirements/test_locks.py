"""The locks: complete, plain, and what this environment really holds."""

from __future__ import annotations

import ast
import importlib.metadata as metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from pipeline.image import ALL_ROOMS

REQUIREMENTS = Path(__file__).resolve().parents[3] / "requirements"


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"requirements_{name}", REQUIREMENTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lock, install = _module("lock"), _module("install")
NAMES = lock.NAMES
# Every package that any Python needs is installed there.
on_the_oldest = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="locks are written and checked on Python 3.11"
)
# The trio must be built for one another; nothing but these numbers says so. BentoML's successor cannot be installed.
PINNED = {"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.8.0", "bentoml": "1.4.39"}
GPU_BUILDS = {"torch", "torchrec", "fbgemm-gpu"}


def pins(name: str) -> dict[str, str]:
    lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
    plain = (line.split(" ; ")[0] for line in lines if not line.startswith("#"))
    return dict(line.split("==") for line in plain)


def pins_on(name: str, python: str, machine: str = "x86_64") -> dict[str, Version]:
    """What a lock installs on a Python."""
    lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
    wanted = (Requirement(line) for line in lines if not line.startswith("#"))
    kept = (r for r in wanted if r.marker is None or r.marker.evaluate(lock.environment(python, machine)))
    return {r.name: Version(str(r.specifier).removeprefix("==")) for r in kept}


def holes(found: dict[str, Version], python: str, machine: str) -> list[str]:
    """What pinned packages need on a Python and the pins do not give."""
    missing = []
    for name in found.keys() - lock.ELSEWHERE.keys():
        for needed in lock.needs(name, "", lock.environment(python, machine)):
            key = canonicalize_name(needed.name)
            if (name, key) in lock.NOT_NEEDED:
                continue
            if key not in found or not needed.specifier.contains(found[key], prereleases=True):
                missing.append(f"{name} needs {needed}")
    return missing


@pytest.mark.parametrize("name", NAMES)
def test_every_line_is_a_name_and_one_version_in_order(name):
    lines = [line for line in (REQUIREMENTS / f"{name}.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == sorted(lines, key=lambda line: line.split("==")[0])
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9][a-z0-9-]*==[0-9][0-9a-z.]*( ; .*)?", line)] == []


@on_the_oldest
@pytest.mark.parametrize("machine", lock.MACHINES)
@pytest.mark.parametrize("python", ["3.11.0", "3.11.2", "3.11.14", "3.12.3", "3.13.5"])
@pytest.mark.parametrize("name", ["dev", "serve", "pipeline", "airflow"])
def test_a_lock_is_whole_on_every_python_it_is_for(name, python, machine):
    assert holes(pins_on(name, python, machine), python, machine) == []


@on_the_oldest
@pytest.mark.parametrize("python", ["3.11.0", "3.11.2", "3.12.0", "3.13.0"])
@pytest.mark.parametrize("name", ["dev", "serve", "pipeline", "airflow"])
def test_every_pinned_release_takes_every_python_it_is_installed_on(name, python):
    assert {key: lock.refuses(key, python) for key in pins_on(name, python) if lock.refuses(key, python)} == {}


@on_the_oldest
def test_a_release_that_gives_up_an_old_patch_release_is_found(monkeypatch):
    monkeypatch.setattr(lock, "python_wanted", lambda name: ">=3.11.5")
    assert lock.refuses("pydantic", "3.11.2") == ">=3.11.5"
    assert lock.refuses("pydantic", "3.11.5") == ""


@on_the_oldest
def test_a_hole_in_a_lock_is_found():
    found = pins_on("dev", "3.11.2")
    del found["async-timeout"]
    assert holes(found, "3.11.3", "x86_64") == []
    (hole,) = holes(found, "3.11.2", "x86_64")
    assert hole.startswith("redis needs async-timeout")
    old = pins_on("dev", "3.12.0") | {"pydantic": Version("1.0")}
    assert any("pydantic" in hole for hole in holes(old, "3.12.0", "x86_64"))


def test_no_line_names_where_packages_come_from():
    for path in REQUIREMENTS.iterdir():
        if path.is_file():
            assert not re.search(r"https?://|--(extra-)?index-url|--find-links [^F]", path.read_text()), path


def test_the_development_lock_is_what_is_installed():
    here = {name: str(version) for name, version in pins_on("dev", platform.python_version()).items()}
    installed = {name: Version(metadata.version(name)).public for name in here}
    assert installed == here
    assert installed.items() >= PINNED.items()


def test_lean_locks_take_their_versions_from_the_development_lock():
    for name in ("serve", "airflow", "gpu"):
        mine = pins(name).items()
        assert {key for key, value in mine - pins("dev").items()} <= (GPU_BUILDS if name == "gpu" else set())


def test_lean_locks_leave_out_what_their_image_does_not_run():
    assert not pins("serve").keys() & {"apache-airflow", "great-expectations", "mlflow", "pytest"}
    assert not pins("airflow").keys() & {"torch", "feast", "great-expectations", "bentoml", "mlflow"}
    assert not pins("gpu").keys() & {"apache-airflow", "fbgemm-gpu-cpu", "pytest"}


@pytest.mark.parametrize(
    ("name", "folders"),
    [
        ("dev", (*ALL_ROOMS, "dags", "benchmarks", "tests")),
        ("pipeline", ALL_ROOMS),
        ("serve", ("core", "feature_repo")),
    ],
)
def test_what_the_code_imports_is_asked_for_by_name(name, folders):
    """Not just there because another package happens to need it."""
    asked = {canonicalize_name(one.name) for one in lock.chosen(name)} | {"llm4msr"}
    imported: dict[str, str] = {}
    for file in (file for folder in folders for file in (REQUIREMENTS.parent / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            imported |= {one.split(".")[0]: str(file) for one in names}
    homes = metadata.packages_distributions()
    unasked = {top for top in imported.keys() & homes if not asked & {canonicalize_name(home) for home in homes[top]}}
    assert {top: imported[top] for top in unasked} == {}


@on_the_oldest
def test_the_locks_are_what_their_inputs_and_this_environment_give():
    done = subprocess.run([sys.executable, REQUIREMENTS / "lock.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_another_python_is_refused_by_a_sentence():
    for version in ((3, 10), (3, 14)):
        with pytest.raises(install.InstallError, match=r"3.11, 3.12 and 3.13"):
            install.check_python(version)
    for version in ((3, 11), (3, 12), (3, 13)):
        install.check_python(version)


def test_a_package_that_cannot_be_imported_is_named_with_its_reason():
    install.verify(["json", "re"])
    with pytest.raises(install.InstallError, match=r"no_such_module cannot be imported \(ModuleNotFoundError"):
        install.verify(["json", "no_such_module", "re"])


def test_without_a_driver_only_the_drivers_own_library_may_be_missing(tmp_path, monkeypatch):
    """Libraries as a wheel for GPUs has them, made by the compiler: one wants the driver's, one something else."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    package = tmp_path / "wants_a_driver"
    package.mkdir()
    (package / "__init__.py").write_text("raise OSError('no driver')\n")
    (tmp_path / "empty.c").write_text("int nothing;\n")

    def library(file: Path, *wanted: Path) -> Path:
        more = [f"-Wl,--no-as-needed,-soname,{file.name}", *map(str, wanted)]
        subprocess.run([compiler, "-shared", "-o", file, tmp_path / "empty.c", *more], check=True)
        return file

    driver = library(tmp_path / "libdriver-nowhere.so.1")
    other = library(tmp_path / "libother-nowhere.so.1")
    library(package / "one.so", driver)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    install.verify_libraries("wants_a_driver", besides=driver.name)
    library(package / "two.so", other)
    with pytest.raises(install.InstallError, match="libother-nowhere"):
        install.verify_libraries("wants_a_driver", besides=driver.name)
    assert not install.has_library(driver.name)
    assert install.has_library("libc.so.6")


def test_the_build_of_torch_and_what_it_declares_are_read_without_importing_it(tmp_path, monkeypatch):
    """A wheel as the public index has it: built for CUDA, its libraries declared and not there."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libcublasLt.so not found')")
    (tmp_path / "torch" / "version.py").write_text("__version__ = '9.9.9'\ncuda: str = '13.0'\n")
    info = tmp_path / "torch-9.9.9.dist-info"
    info.mkdir()
    declared = [
        'nvidia-nowhere==13.1.0.3; platform_system == "Linux"',
        'triton-nowhere==3.7.0; platform_system == "Linux"',
        "pyyaml>=5",
        'optree>=0.13; extra == "optree"',
    ]
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torch\nVersion: 9.9.9\n" + "".join(f"Requires-Dist: {d}\n" for d in declared)
    )
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(REQUIREMENTS)!r}]\n"
        "import install; print(install.cuda_of_torch()); print(install.cuda_libraries())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    cuda, libraries = done.stdout.splitlines()
    assert cuda == "13.0", done.stderr
    assert libraries == str(
        ["nvidia-nowhere==13.1.0.3; platform_system == 'Linux'", "triton-nowhere==3.7.0; platform_system == 'Linux'"]
    )


def test_the_cpu_build_that_is_here_needs_no_cuda_libraries():
    import torch

    assert install.cuda_of_torch() == (torch.version.cuda or "")


def test_a_cpu_build_is_refused_where_gpus_are_wanted():
    for name, cuda in (("gpu", "12.8"), ("serve", ""), ("serve", "13.0")):
        install.check_build(name, cuda)
    with pytest.raises(install.InstallError, match="came as a CPU build.*PIP_FIND_LINKS"):
        install.check_build("gpu", "")


def test_a_disk_that_is_too_full_is_refused_before_anything_is_fetched():
    install.need_room(0, "nothing")
    with pytest.raises(
        install.InstallError, match=r"all else take 1e\+07 GiB while they are installed; [0-9.]+ GiB are free"
    ):
        install.need_room(1e7, "all else")


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("ERROR: No matching distribution found for torch==2.13.0", "no build for this machine"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "list of hashes"),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("ConnectTimeoutError(...)", "cannot be reached"),
        ("NewConnectionError(...) ERROR: No matching distribution found for torch==2.13.0", "cannot be reached"),
    ],
)
def test_a_failure_of_pip_says_what_to_do(said, advice):
    assert advice in install.advice(said)
