"""Write `requirements/NAME.hashes.txt`: the lock with the sha256 of each file that pip would install on this machine.

    python requirements/hashes.py serve && make image NAME=serve HASHES=requirements/serve.hashes.txt

pip refuses any other file from then on. Where torch comes as a CUDA build, the CUDA libraries that it declares are among them. The hashes
are those of this machine's platform and Python, and of the index and wheels that its pip is set to, so write them where you trust
these, best in a container of the image's base (another 3.11 may need another package), and keep the file.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

HERE = Path(__file__).resolve().parent


def account(lock: Path) -> dict:
    """Pip's account of what would be installed from a lock, with the CUDA libraries that torch's build declares."""
    found = _pip("-r", lock, "--no-deps")
    names = {_normal(one["metadata"]["name"]) for one in found["install"]}
    torch = [one["metadata"] for one in found["install"] if one["metadata"]["name"] == "torch"]
    declared = [line for one in torch for line in one.get("requires_dist", []) if "extra ==" not in line]
    missing = [line for line in declared if _normal(re.match(r"[\w.-]+", line)[0]) not in names]  # type: ignore[index]
    if missing:
        more = _pip(*missing, "-c", lock)["install"]
        found["install"] += [one for one in more if _normal(one["metadata"]["name"]) not in names]
    return found


def _pip(*what: str | Path) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        options = ["--dry-run", "--ignore-installed", "--quiet", "--report", str(file)]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *what], check=True)
        return dict(json.loads(file.read_text(encoding="utf-8")))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def render(found: dict) -> str:
    """A lock with hashes from pip's account.

    Raises:
        ValueError: pip does not know the hash of a file that is not on this machine either.
    """
    lines = ["# Written by `python requirements/hashes.py`; holds for one platform and Python version."]
    for one in sorted(found["install"], key=lambda each: _normal(each["metadata"]["name"])):
        name, version = _normal(one["metadata"]["name"]), one["metadata"]["version"]
        url = urlsplit(one["download_info"]["url"])
        digest = one["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if digest is None and url.scheme == "file":
            # Older pips (Debian 12's is one) do not look into a folder's wheels.
            digest = hashlib.sha256(Path(unquote(url.path)).read_bytes()).hexdigest()
        if digest is None:
            raise ValueError(f"pip names no sha256 of {name} {version} ({url.geturl()})")
        lines.append(f"{name}=={version} --hash=sha256:{digest}")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the file of the lock that the first argument names."""
    if len(sys.argv) != 2 or not (HERE / f"{sys.argv[1]}.txt").is_file():
        names = sorted(file.stem for file in HERE.glob("*.in"))
        print(f"usage: python requirements/hashes.py {'|'.join(names)}", file=sys.stderr)
        return 2
    target = HERE / f"{sys.argv[1]}.hashes.txt"
    target.write_text(render(account(HERE / f"{sys.argv[1]}.txt")), encoding="utf-8")
    print(f"wrote {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
