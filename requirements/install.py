"""Install a lock into the environment of the Python that runs this, so that it works: `python requirements/install.py dev`.

1. The pins of `requirements/NAME.txt`, without a resolver.
2. Where torch came as a CUDA build, the CUDA libraries which that wheel itself declares: without them it cannot be imported.
3. A look whether what matters can be imported, and if not, one line that says what and why.

Further arguments are pip's. Needs nothing but Python and pip.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.metadata as metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMES = ("dev", "serve", "pipeline", "airflow", "gpu")
OLDEST, NEWEST = (3, 11), (3, 13)
# Package to module: what must import, where the lock has the package.
IMPORTS = {
    "torch": "torch",
    "fbgemm-gpu-cpu": "fbgemm_gpu",
    "fbgemm-gpu": "fbgemm_gpu",
    "torchrec": "torchrec",
    "feast": "feast",
    "apache-airflow": "airflow",
    "bentoml": "bentoml",
    "great-expectations": "great_expectations",
    "mlflow": "mlflow",
    "ray": "ray",
    "duckdb": "duckdb",
    "transformers": "transformers",
    "redis": "redis.asyncio",
}
USER_MISTAKE = 2
# A library of NVIDIA's driver, which machines with a GPU have and which containers get from them; and what cannot be imported without.
DRIVER = "libnvidia-ml.so.1"
WANT_DRIVER = ("fbgemm_gpu", "torchrec")
_SILENCE = 10.0
_PIP = (sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off", "--no-deps")
CPU_HINT = (
    "torch came as a CUDA build, which works without a GPU but is large. The CPU build is 3.6 GiB smaller: make the "
    "environment again with PIP_EXTRA_INDEX_URL set to PyTorch's CPU index (its installation page names it), or with "
    "PIP_FIND_LINKS set to a folder that holds the CPU wheel."
)
CUDA_HINT = (
    "torch came as a CPU build, which uses no GPU: leave PyTorch's CPU index and folders with CPU wheels out of pip's settings "
    "(PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS; pip config list), and set up in a new environment"
)


class InstallError(Exception):
    """What went wrong, for a person."""


def main() -> int:
    """Install one lock; 2 when it cannot work, with the reason on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=NAMES, help="which lock")
    options, pip_options = parser.parse_known_args()
    begin = time.monotonic()
    try:
        check_python(sys.version_info[:2])
        lock = HERE / f"{options.name}.txt"
        if "torch" in pins(lock) and not has("torch"):
            need_room(4, "torch and all else")
        _pip(["-r", str(lock), *pip_options], f"{len(pins(lock))} packages of {lock.name}")
        cuda = cuda_of_torch()
        check_build(options.name, cuda)
        if cuda:
            wanted = cuda_libraries()
            if wanted:
                need_room(6, "the CUDA libraries")
                _pip([*wanted, "-c", str(lock), *pip_options], f"CUDA {cuda} libraries that torch declares", deps=True)
            if options.name != "gpu":
                print(CPU_HINT, flush=True)
        modules = [module for package, module in IMPORTS.items() if package in pins(lock)]
        if options.name == "gpu" and not has_library(DRIVER):
            modules = [module for module in modules if module not in WANT_DRIVER]
            verify_libraries("fbgemm_gpu", besides=DRIVER)
        verify(modules)
    except InstallError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return USER_MISTAKE
    torch = f"torch {metadata.version('torch')} ({'CUDA ' + cuda if cuda else 'CPU build'}), " if has("torch") else ""
    print(
        f"installed: {len(pins(lock))} packages, {torch}Python {sys.version.split()[0]}, {_gib(Path(sys.prefix)):.1f} GiB in "
        f"{sys.prefix}, {time.monotonic() - begin:.0f} s",
        flush=True,
    )
    return 0


def check_python(version: tuple[int, int]) -> None:
    """Refuse a Python that the locks were not resolved for."""
    if not OLDEST <= version <= NEWEST:
        raise InstallError(
            f"Python {version[0]}.{version[1]} is not supported: the locks hold for Python 3.11, 3.12 and 3.13; name one of "
            "them, e.g. make setup PYTHON=python3.11"
        )


def check_build(name: str, cuda: str) -> None:
    """Refuse a CPU build of torch where GPUs are wanted: it would run, without them."""
    if name == "gpu" and not cuda:
        raise InstallError(CUDA_HINT)


def need_room(gib: float, what: str) -> None:
    """Refuse a disk that is too full before half of it is there."""
    free = shutil.disk_usage(sys.prefix).free / 2**30
    if free < gib:
        raise InstallError(f"{what} take {gib:g} GiB while they are installed; {free:.1f} GiB are free at {sys.prefix}")


def pins(lock: Path) -> dict[str, str]:
    """Name to version of a lock's lines, whatever their markers say."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    found = [re.match(r"([a-z0-9-]+)==(\S+)", line) for line in lines]
    return {match[1]: match[2] for match in found if match}


def has(package: str) -> bool:
    """Whether a package is installed."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return bool(metadata.version(package))
    return False


def cuda_of_torch() -> str:
    """The CUDA version that the installed torch was built with; empty for a CPU build, or without torch.

    Its own `torch/version.py` says so. It is run alone: the package cannot be imported yet.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    said: dict[str, object] = {}
    exec((Path(spec.origin).parent / "version.py").read_text(encoding="utf-8"), said)
    return str(said.get("cuda") or "")


def cuda_libraries() -> list[str]:
    """What the installed torch declares and is not there: requirements of pip, with their versions."""
    wanted = []
    for line in metadata.requires("torch") or []:
        text, _, marker = line.partition(";")
        name = re.match(r"[A-Za-z0-9._-]+", text.strip())
        if "extra" in marker or name is None or has(name[0]):
            continue
        wanted.append(line.replace('"', "'") if marker else text.strip())
    return wanted


def verify(modules: list[str]) -> None:
    """Import each in a process of its own kind; the first that fails is named with its reason."""
    print(f"checking that {', '.join(modules)} can be imported", flush=True)
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n    print(name, flush=True)\n    importlib.import_module(name)\n"
    with tempfile.TemporaryDirectory() as home:
        # Some write their settings at home when they are imported.
        quiet = {
            "AIRFLOW_HOME": home,
            "BENTOML_HOME": home,
            "BENTOML_DO_NOT_TRACK": "True",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        quiet |= {"FEAST_USAGE": "False", "PYTHONWARNINGS": "ignore", "MPLCONFIGDIR": home}
        done = subprocess.run(
            [sys.executable, "-c", code, *modules], env={**os.environ, **quiet}, capture_output=True, text=True
        )
    if done.returncode:
        reached = [line for line in done.stdout.splitlines() if line in modules]
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise InstallError(
            f"{reached[-1] if reached else 'Python'} cannot be imported ({reason}); the environment would not work. Where a "
            "package is missing or of another build, remove the environment and set up again (make clean setup)"
        )


def has_library(name: str) -> bool:
    """Whether the system finds a shared library."""
    with contextlib.suppress(OSError):
        return bool(ctypes.CDLL(name))
    return False


def verify_libraries(package: str, *, besides: str) -> None:
    """Load a package's libraries, beside torch's, where it cannot be imported for want of another library alone.

    Args:
        package: which holds them.
        besides: the library that may be missing.

    Raises:
        InstallError: one of them wants something else that is not there, or of another build.
    """
    print(
        f"checking the libraries of {package} ({besides}, a part of NVIDIA's driver, is not here: no import yet)",
        flush=True,
    )
    code = (
        "import ctypes, importlib.util, pathlib, sys, torch\n"
        "folder = pathlib.Path(importlib.util.find_spec(sys.argv[1]).origin).parent\n"
        "files = sorted(folder.glob('*.so'))\n"
        "assert files, f'no library in {folder}'\n"
        "for file in files:\n"
        "    try:\n"
        "        ctypes.CDLL(str(file))\n"
        "    except OSError as error:\n"
        "        if not str(error).startswith(sys.argv[2]): raise\n"
    )
    done = subprocess.run([sys.executable, "-c", code, package, besides], capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1]
        raise InstallError(f"{package} cannot be loaded ({reason}); the environment would not work, on GPUs neither")


def _pip(arguments: list[str], what: str, *, deps: bool = False) -> None:
    """Run pip; a line every ten seconds says how far it is, and its last words are shown if it fails."""
    command = [*_PIP[:-1], *arguments] if deps else [*_PIP, *arguments]
    print(f"installing {what}", flush=True)
    said: list[str] = []
    done = threading.Event()
    teller = threading.Thread(target=_tell, args=(said, done), daemon=True)
    # /tmp is memory on many systems, and three GiB of wheels may be more than it holds.
    with (
        tempfile.TemporaryDirectory(prefix="pip-", dir=sys.prefix) as folder,
        subprocess.Popen(
            command,
            env={"TMPDIR": folder, **os.environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as pip,
    ):
        teller.start()
        said.extend(line.rstrip() for line in pip.stdout or ())
        done.set()
    if pip.returncode:
        last = said[-15:]
        raise InstallError("pip failed:\n" + "\n".join(f"  {line}" for line in last) + f"\n{advice(' '.join(last))}")


def _tell(said: list[str], done: threading.Event) -> None:
    """Say every ten seconds what pip is at: it is silent while it unpacks."""
    while not done.wait(_SILENCE):
        lines = list(said)
        if any(line.startswith("Installing collected") for line in lines):
            print(
                f"  {len(list(Path(sysconfig.get_path('purelib')).glob('*.dist-info')))} packages unpacked", flush=True
            )
        elif seen := [line.split()[1] for line in lines if line.startswith(("Collecting ", "Processing "))]:
            # Pip says Collecting of an index and Processing of a folder.
            print(f"  {len(seen)} packages found, {Path(seen[-1]).name}", flush=True)


def advice(said: str) -> str:
    """What to do about a failure of pip, by its words."""
    if "No space left" in said:
        return "The disk is full: 4 GiB are needed with torch's CPU build, 10 GiB with its CUDA build."
    if "DO NOT MATCH THE HASHES" in said:
        return "The file that pip named is not the one in the list of hashes: write the list anew only where you trust what serves it."
    if any(word in said for word in ("ConnectTimeout", "Connection", "ReadTimeout", "certificate verify failed")):
        return "The package index cannot be reached; see pip's settings for proxies, mirrors and certificates (pip config list)."
    if "No matching distribution" in said:
        return (
            "A package has no build for this machine or Python (supported: Linux on x86-64, CPython 3.11 to 3.13), or the "
            "package index that pip asks lacks it."
        )
    return "See pip's words above; what was fetched is kept, and the same command goes on from there."


def _gib(folder: Path) -> float:
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir()) / 2**30


if __name__ == "__main__":
    sys.exit(main())
