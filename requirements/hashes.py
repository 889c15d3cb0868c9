"""Write `requirements/NAME.hashes.txt`: the lock with the sha256 of each file that pip would install on this machine.

    python requirements/hashes.py serve && make image NAME=serve HASHES=requirements/serve.hashes.txt

pip refuses any other file from then on. The hashes are those of this machine's platform and Python, and of the index and wheels that
its pip is set to, so write them where you trust these, on the platform of the image, and keep the file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def report(lock: Path) -> dict:
    """Pip's account of what it would install from a lock."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        options = ["--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report", file]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, "-r", lock], check=True)
        return json.loads(file.read_text(encoding="utf-8"))


def render(found: dict) -> str:
    """A lock with hashes from pip's account.

    Raises:
        ValueError: pip does not know the hash of a file, as of one that is not in an index or a folder of wheels.
    """
    lines = ["# Written by `python requirements/hashes.py`; holds for one platform and Python version."]
    for one in sorted(found["install"], key=lambda each: each["metadata"]["name"].lower()):
        name, version = one["metadata"]["name"], one["metadata"]["version"]
        digest = one["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if digest is None:
            raise ValueError(f"pip names no sha256 of {name} {version} ({one['download_info']['url']})")
        lines.append(f"{name}=={version} --hash=sha256:{digest}")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the file of the lock that the first argument names."""
    if len(sys.argv) != 2 or not (HERE / f"{sys.argv[1]}.txt").is_file():
        names = sorted(file.stem for file in HERE.glob("*.in"))
        print(f"usage: python requirements/hashes.py {'|'.join(names)}", file=sys.stderr)
        return 2
    target = HERE / f"{sys.argv[1]}.hashes.txt"
    target.write_text(render(report(HERE / f"{sys.argv[1]}.txt")), encoding="utf-8")
    print(f"wrote {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
