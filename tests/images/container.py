"""Build images with buildah and run them with an OCI runtime: no daemon, no registry.

The base image is a bare Debian made by debootstrap. A container has a read-only root, no capabilities, process ids of its own and the
host's network, as a pod's would be but for the network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from images.debian import CACHE, bare_root

REPOSITORY = Path(__file__).resolve().parents[2]
RUNTIME = "runc"
STORAGE = Path("/var/lib/containers")
# What slim images leave out as well.
LEFT_OUT = ("var/lib/apt/lists", "usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man")


def need_tools() -> None:
    """Skip the test where an image cannot be built or run."""
    if os.geteuid() != 0:
        pytest.skip("images are built by root here")
    missing = [name for name in ("buildah", "debootstrap", RUNTIME) if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def build(name: str, tag: str, *more: str | Path) -> str:
    """Build one of the product's images on the bare Debian, as `make image` does; returns its tag."""
    command = [sys.executable, REPOSITORY / "pipeline" / "image.py", name, "--engine", "buildah", "--tag", tag]
    done = subprocess.run(
        [*map(str, command), "--base", base_image(), *map(str, more)], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return tag


@cache
def environment() -> dict[str, str]:
    """Of buildah: without user namespaces, and with layers that share their files, where the kernel lets them."""
    STORAGE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=STORAGE) as folder:
        lower, upper, work, merged = (Path(folder) / name for name in ("lower", "upper", "work", "merged"))
        for one in (lower, upper, work, merged):
            one.mkdir()
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        command = ["unshare", "--mount", "mount", "-t", "overlay", "overlay", "-o", options, str(merged)]
        works = subprocess.run(command, capture_output=True).returncode == 0
    return {**os.environ, "BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "overlay" if works else "vfs"}


def buildah(*arguments: str | Path) -> str:
    """What a buildah command prints."""
    done = subprocess.run(["buildah", *map(str, arguments)], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def base_image(suite: str = "bookworm") -> str:
    """The name of an image that holds a bare Debian."""
    name = f"localhost/llm4msr-bare:{suite}"
    if not buildah("images", "--quiet", "--filter", f"reference={name}"):
        root = bare_root(suite)
        packed = CACHE / f"{suite}.tar"
        with tarfile.open(packed, "w") as tar:
            tar.add(root, arcname=".", filter=_wanted)
        container = buildah("from", "scratch")
        try:
            buildah("add", container, packed, "/")
            buildah("config", "--env", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
            buildah("commit", container, name)
        finally:
            buildah("rm", container)
            packed.unlink()
    return name


def image_size(name: str) -> int:
    """Bytes of the files in an image, all layers together."""
    container = buildah("from", "--pull-never", name)
    try:
        folder = buildah("mount", container)
        return int(
            subprocess.check_output(["du", "-s", "--apparent-size", "--block-size=1", folder], text=True).split()[0]
        )
    finally:
        buildah("rm", container)


@contextmanager
def started(
    image: str,
    folder: Path,
    mounts: Mapping[str, Path],
    log: Path,
    *,
    writable: Sequence[str] = (),
    command: Sequence[str] = (),
) -> Iterator[Container]:
    """A container whose root cannot be written.

    Args:
        image: its name.
        folder: for the runtime's files.
        mounts: place in the container to a folder or file of ours, read-only.
        log: takes what it prints.
        writable: places of `mounts` that can be written after all.
        command: what to run; none: the image's own.
    """
    container = buildah("from", "--pull-never", image)
    name = f"llm4msr-{os.getpid()}-{folder.name}"
    try:
        root = buildah("mount", container)
        described = json.loads(buildah("inspect", "--type", "image", image))["Docker"]["config"]
        folder.mkdir(parents=True, exist_ok=True)
        described["Cmd"] = list(command) or described["Cmd"]
        (folder / "config.json").write_text(json.dumps(_specification(root, described, mounts, writable)))
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [RUNTIME, "run", "--bundle", folder, name], stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
            )
        while (
            process.poll() is None and subprocess.run([RUNTIME, "exec", name, "true"], capture_output=True).returncode
        ):
            time.sleep(0.1)
        yield Container(name, process, described)
        subprocess.run([RUNTIME, "delete", "--force", name], capture_output=True)
        process.wait()
    finally:
        subprocess.run([RUNTIME, "delete", "--force", name], capture_output=True)
        buildah("rm", container)


class Container:
    """A running container."""

    def __init__(self, name: str, process: subprocess.Popen, described: dict) -> None:
        self.name, self.process, self.described = name, process, described
        self.image = self.kind = ""

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as the image's user."""
        return subprocess.run([RUNTIME, "exec", self.name, *command], capture_output=True, text=True)

    def signal(self, which: str) -> None:
        """Send a signal to the container's first process."""
        subprocess.run([RUNTIME, "kill", self.name, which], check=True)


def _wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    place = member.name.removeprefix("./")
    return None if place.startswith(("proc/", "sys/", "dev/", *LEFT_OUT)) else member


def _specification(root: str, described: dict, mounts: Mapping[str, Path], writable: Sequence[str]) -> dict:
    user, group = (int(part) for part in described["User"].split(":"))
    quiet = ["nosuid", "noexec", "nodev"]
    bound = [
        {
            "destination": place,
            "type": "bind",
            "source": str(source),
            "options": ["rbind", "rw" if place in writable else "ro"],
        }
        for place, source in {"/etc/hosts": "/etc/hosts", **mounts}.items()
    ]
    return {
        "ociVersion": "1.0.0",
        "process": {
            "user": {"uid": user, "gid": group},
            "args": [*(described.get("Entrypoint") or []), *described["Cmd"]],
            "env": described["Env"],
            "cwd": described["WorkingDir"] or "/",
            "capabilities": {},
            "noNewPrivileges": True,
        },
        "root": {"path": root, "readonly": True},
        "hostname": "container",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/shm",
                "type": "tmpfs",
                "source": "shm",
                "options": [*quiet, "mode=1777", "size=268435456"],
            },
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]},
            *bound,
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
    }
