"""A bare Debian in a folder, and a fresh clone of this repository in it, used by an ordinary user.

Made by debootstrap, entered by `unshare` and `chroot`: no container engine, no registry. What a system cannot have of its own comes from
this machine: the package index that pip asks here, its certificates, its proxies, the folders of `PIP_FIND_LINKS`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from images.debian import CACHE, bare_root, call

CHECKOUT = Path(__file__).resolve().parents[2]
USER = 1000
HOME = "/home/somebody"
# Where the clone lies: a folder's name may hold a space.
CLONE = f"{HOME}/my work/llm4msr"
# A root's own /proc, shared memory and, when `offline`, network. This shell stays the first process of its own process space, and
# stays root: whoever becomes another user is no longer killed together with `unshare`.
_ENTER = """
set -e
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
for folder in $bound; do mkdir -p "$root$folder"; mount --bind "$folder" "$root$folder"; done
mkdir -p "$root/var/cache/pip"; mount --bind "$fetched" "$root/var/cache/pip"
[ -z "$offline" ] || ip link set lo up
chroot --userspec=%d:%d "$root" /usr/bin/env -i $settings sh -c 'cd "$0" && eval "$1"' "$place" "$command" || exit $?
"""


class System:
    """A bare system with a clone; commands run in the clone's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._settings, self._bound = _from_this_machine(root)

    def start(self, command: str, *, offline: bool = False) -> subprocess.Popen[str]:
        """A shell command of the ordinary user; everything that it started ends with it.

        Args:
            command: for sh.
            offline: with no network but the system's own loopback.
        """
        words = {"PATH": "/usr/bin:/bin", "HOME": HOME, "PIP_CACHE_DIR": "/var/cache/pip", **self._settings}
        spaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", *(["--net"] if offline else [])]
        environment = {
            **{"PATH": os.environ["PATH"], "root": str(self.root), "place": CLONE, "command": command},
            **{"bound": " ".join(self._bound), "fetched": str(_fetched()), "offline": "yes" if offline else ""},
        }
        script = _ENTER % (USER, USER)
        script = script.replace("$settings", " ".join(shlex.quote(f"{key}={value}") for key, value in words.items()))
        return subprocess.Popen(
            [*spaces, "sh", "-c", script],
            env=environment,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, command: str, *, offline: bool = False, code: int = 0) -> str:
        """What a command prints, shown as it goes; it must end with `code`."""
        print(f"\n$ {command}", flush=True)
        said = []
        with self.start(command, offline=offline) as process:
            for line in lines_of(process):
                print(line, end="", flush=True)
                said.append(line)
        assert process.returncode == code, f"{command}: exit code {process.returncode}\n{''.join(said[-30:])}"
        return "".join(said)

    def kill_at(self, command: str, words: str) -> None:
        """Start a command and kill it, with all that it started, as soon as it prints `words`."""
        said = []
        with self.start(command) as process:
            for line in lines_of(process):
                said.append(line)
                if words in line:
                    process.kill()
        assert words in "".join(said), f"{command} ended before it said {words!r}:\n{''.join(said[-30:])}"


def lines_of(process: subprocess.Popen[str]) -> Iterator[str]:
    """What a process prints, line by line, to its end."""
    yield from process.stdout or ()


def need_tools() -> None:
    """Skip where a bare system cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("bare systems are made and entered by root")
    missing = [name for name in ("debootstrap", "unshare", "chroot", "git", "ip") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"missing: {', '.join(missing)} (apt-get install debootstrap iproute2 git)")
    if not (CHECKOUT / ".git").exists():
        pytest.skip("this folder is no clone that could be cloned again")


def need_room(gib: float) -> None:
    """Skip where the disk is too full for a system with everything installed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(CACHE).free / 2**30
    if free < gib:
        pytest.skip(f"{gib:g} GiB are needed below {CACHE}, {free:.1f} are free")


@contextmanager
def bare_system(suite: str) -> Iterator[System]:
    """A Debian of a suite with a fresh clone of this checkout's last commit; removed at the end."""
    base = bare_root(suite)
    with tempfile.TemporaryDirectory(prefix=f"{suite}-", dir=CACHE) as folder:
        root = Path(folder) / "root"
        call("cp", "-a", "--reflink=auto", base, root)
        place = root / CLONE.lstrip("/")
        place.parent.mkdir(parents=True)
        call("git", "clone", "--quiet", "--no-hardlinks", CHECKOUT, place)
        call("git", "-C", place, "remote", "set-url", "origin", "nowhere")
        (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
        with (root / "etc" / "passwd").open("a") as passwd:
            passwd.write(f"somebody:x:{USER}:{USER}::{HOME}:/bin/sh\n")
        call("chown", "-R", f"{USER}:{USER}", root / HOME.lstrip("/"))
        yield System(root)


def _fetched() -> Path:
    """What pip fetched, owned by the ordinary user: pip reads no other."""
    folder = CACHE / "pip"
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, USER, USER)
    return folder


def _from_this_machine(root: Path) -> tuple[dict[str, str], list[str]]:
    """Settings for a system's environment, and folders that it must see under their own names."""
    settings = {key: value for key, value in os.environ.items() if key.lower().endswith("_proxy")}
    shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")
    for key in ("index-url", "extra-index-url"):
        addresses = [address for address in _pip_says(key).split() if not address.startswith("file:")]
        settings |= {f"PIP_{key.upper().replace('-', '_')}": " ".join(addresses)} if addresses else {}
    folders = [folder for folder in _pip_says("find-links").split() if Path(folder).is_dir()]
    settings |= {"PIP_FIND_LINKS": " ".join(folders)} if folders else {}
    if certificates := _pip_says("cert"):
        shutil.copy(certificates, root / "etc" / "certificates.pem")
        settings["PIP_CERT"] = "/etc/certificates.pem"
    return settings, folders


def _pip_says(key: str) -> str:
    """A setting of this machine's pip: from its environment, else from its files."""
    from_environment = os.environ.get(f"PIP_{key.upper().replace('-', '_')}")
    if from_environment is not None:
        return from_environment
    command = [sys.executable, "-m", "pip", "config", "get", f"global.{key}"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
