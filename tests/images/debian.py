"""A bare Debian in a folder, made by debootstrap once for all tests and kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

# Kept between runs: the bare roots, and what pip fetched.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm4msr" / "bare"
PACKAGES = "python3,python3-venv,make,ca-certificates"


def bare_root(suite: str) -> Path:
    """A bare root, made where it is not there yet; a half one is never taken. Nobody may change it."""
    base = CACHE / suite
    if not base.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f"{suite}-new-", dir=CACHE))
        try:
            call("debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, unfinished, *_mirror())
            call("chroot", unfinished, "apt-get", "clean")
            unfinished.chmod(0o755)
            unfinished.rename(base)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return base


def call(*command: str | Path) -> None:
    """Run a command that must succeed."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{command[0]}: {(done.stdout + done.stderr)[-3000:]}"


def _mirror() -> list[str]:
    """The archive that this machine's own apt reads, if it is a Debian; debootstrap's own choice otherwise."""
    form = "$(REPO_URI) $(ORIGIN) $(LABEL)"
    said = subprocess.run(["apt-get", "indextargets", "--format", form], capture_output=True, text=True).stdout
    return sorted({line.split()[0] for line in said.splitlines() if line.endswith(" Debian Debian")})[:1]
