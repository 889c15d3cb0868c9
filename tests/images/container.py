"""Build images with buildah and run them with an OCI runtime: no daemon, no registry.

The base image is a bare Debian made by debootstrap. A container has a read-only root, no capabilities, process ids of its own and the
host's network, as a pod's would be but for the network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

# One suite's bare root is made once and kept; `make clean` leaves it alone.
CACHE = Path(os.environ.get("LLM4MSR_IMAGES_CACHE", "/var/tmp/llm4msr-images"))
ENVIRONMENT = {**os.environ, "BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs"}
RUNTIME = "runc"
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"


def need_tools() -> None:
    """Skip the test where an image cannot be built or run."""
    if os.geteuid() != 0:
        pytest.skip("images are built by root here")
    missing = [name for name in ("buildah", "debootstrap", RUNTIME) if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def buildah(*arguments: str | Path) -> str:
    """What a buildah command prints."""
    done = subprocess.run(["buildah", *map(str, arguments)], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def bare_root(suite: str) -> Path:
    """A Debian of a suite with its own Python, made by debootstrap where it is not there yet."""
    root = CACHE / suite
    if not (root / "usr" / "bin" / "python3").exists() or (CACHE / f"{suite}.part").exists():
        root.mkdir(parents=True, exist_ok=True)
        (CACHE / f"{suite}.part").touch()
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, root]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        subprocess.run(["chroot", root, "apt-get", "clean"], check=True)
        # What slim images leave out as well.
        for part in ("var/lib/apt/lists", "usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man"):
            shutil.rmtree(root / part, ignore_errors=True)
        (CACHE / f"{suite}.part").unlink()
    return root


def base_image(suite: str = "bookworm") -> str:
    """The name of an image that holds a bare Debian."""
    name = f"localhost/llm4msr-bare:{suite}"
    if not buildah("images", "--quiet", "--filter", f"reference={name}"):
        packed = CACHE / f"{suite}.tar"
        with tarfile.open(packed, "w") as tar:
            tar.add(bare_root(suite), arcname=".", filter=_without_mounts)
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
def started(image: str, folder: Path, mounts: Mapping[str, Path], log: Path) -> Iterator[Container]:
    """An image's own command as a container whose root cannot be written.

    Args:
        image: its name.
        folder: for the runtime's files.
        mounts: place in the container to a folder or file of ours, read-only.
        log: takes what it prints.
    """
    container = buildah("from", "--pull-never", image)
    name = f"llm4msr-{os.getpid()}-{folder.name}"
    try:
        root = buildah("mount", container)
        described = json.loads(buildah("inspect", "--type", "image", image))["Docker"]["config"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(_specification(root, described, mounts)))
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [RUNTIME, "run", "--bundle", folder, name], stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
            )
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

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as the image's user."""
        return subprocess.run([RUNTIME, "exec", self.name, *command], capture_output=True, text=True)

    def signal(self, which: str) -> None:
        """Send a signal to the container's first process."""
        subprocess.run([RUNTIME, "kill", self.name, which], check=True)


def _without_mounts(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if member.name.startswith(("./proc/", "./sys/", "./dev/")) else member


def _specification(root: str, described: dict, mounts: Mapping[str, Path]) -> dict:
    user, group = (int(part) for part in described["User"].split(":"))
    quiet = ["nosuid", "noexec", "nodev"]
    bound = [
        {"destination": place, "type": "bind", "source": str(source), "options": ["rbind", "ro"]}
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
