"""Build a container image with docker, podman or buildah, whichever answers: `make image NAME=serve`.

    python3 pipeline/image.py serve [--root ROOT] [--tag NAME:TAG] [--engine buildah] [--base IMAGE] [--hashes FILE]

Only what an image holds goes to the engine: its rooms, its lock, for `serve` the champion below `--root` as the seed, and pip's
settings as this machine has them (index, folder of wheels, certificates), which stay out of the image. Standard library only,
so that a machine with an engine and a Python needs no set-up.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
ENGINES = ("docker", "podman", "buildah")
ALL_ROOMS = ("core", "ingest", "knowledge", "validation", "models", "feature_repo", "bento", "pipeline")
# pip's settings that say where packages come from; a path among them is copied beside the lock.
SOURCES = ("index-url", "extra-index-url", "find-links", "trusted-host", "no-index", "proxy", "timeout", "retries")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
CERTIFICATES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


@dataclass(frozen=True)
class Image:
    """What an image is made from: its recipe, the recipe's stage (none: the last), locks and what it holds of this folder."""

    recipe: str
    locks: tuple[str, ...]
    content: tuple[str, ...]
    target: str | None = None


# `package` writes the serving image's lock into what it makes.
_STAGES = (*ALL_ROOMS, "pyproject.toml", "README.md", "LICENSE", "config", "requirements/serve.txt")
IMAGES = {
    "serve": Image("bento/Dockerfile", ("serve",), ("core", "ingest", "knowledge", "feature_repo", "models", "bento")),
    "pipeline": Image("pipeline/Dockerfile", ("pipeline",), _STAGES, "pipeline"),
    "gpu": Image("pipeline/Dockerfile", ("gpu",), _STAGES, "pipeline"),
    "airflow": Image("pipeline/Dockerfile", ("pipeline", "airflow"), (*_STAGES, "dags"), "airflow"),
}


class ImageError(Exception):
    """Nothing was built; the message says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Build one image; exit code 2 with one line where the user must change something."""
    options = _options(arguments)
    try:
        engine = options.engine or find_engine()
        tag = options.tag or f"llm4msr-{options.name}:{version()}"
        with tempfile.TemporaryDirectory(prefix="llm4msr-image-") as folder:
            fill_context(Path(folder), options.name, options.root, options.hashes)
            command = build_command(engine, options.name, tag, folder, options.base)
            print(f"image: {shlex.join(command)}", file=sys.stderr, flush=True)
            code = subprocess.run(command).returncode
        if code == 0:
            print(tag)
        return code
    except ImageError as error:
        print(f"image: {error}", file=sys.stderr)
        return 2


def find_engine() -> str:
    """The first engine that is installed and answers.

    Raises:
        ImageError: none does.
    """
    there = [name for name in ENGINES if shutil.which(name)]
    for name in there:
        if subprocess.run([name, "info"], capture_output=True).returncode == 0:
            return name
    silent = (
        f"{' and '.join(there)} found, but without an answer to `{there[0]} info`; start it, or i" if there else "I"
    )
    raise ImageError(f"{silent}nstall docker, podman or buildah (on Debian and Ubuntu: apt-get install buildah)")


def build_command(engine: str, name: str, tag: str, context: str, base: str | None = None) -> list[str]:
    """The engine's command line that builds an image from a filled context."""
    image = IMAGES[name]
    arguments = {"LOCK": image.locks[0], "VERSION": version(), "REVISION": revision()}
    if base:
        arguments["PYTHON_IMAGE"] = base
    # Every engine knows the proxy's names by itself and keeps them out of the image.
    arguments |= {key: os.environ[key] for key in PROXIES if key in os.environ}
    return [
        *(engine, "build", "--file", f"{context}/{image.recipe}", "--tag", tag),
        # Buildah alone would do everything anew each time.
        *(("--layers",) if engine == "buildah" else ()),
        # Docker's format is the one that keeps a health check.
        *(("--format", "docker") if engine != "docker" else ()),
        *(("--target", image.target) if image.target else ()),
        *(word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")),
        context,
    ]


def fill_context(context: Path, name: str, root: Path | None = None, hashes: Path | None = None) -> None:
    """Copy what an image is made from into a folder.

    Args:
        context: an empty folder.
        name: of the image.
        root: artifact root whose champion becomes the seed of `serve`; without one there is no seed.
        hashes: a lock with hashes (`requirements/hashes.py`), which takes the plain one's place.

    Raises:
        ImageError: something that was asked for is not there.
    """
    image = IMAGES[name]
    for part in {*image.content, image.recipe}:
        source, target = REPOSITORY / part, context / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            ignored = shutil.ignore_patterns(
                "__pycache__", "deploy", "Dockerfile", "seed", ".git*", ".*_cache", ".DS_Store"
            )
            shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)
    requirements = context / "requirements"
    requirements.mkdir(exist_ok=True)
    for lock in image.locks:
        shutil.copy2(REPOSITORY / "requirements" / f"{lock}.txt", requirements)
    shutil.copy2(REPOSITORY / "requirements" / "install.py", requirements)
    if hashes is not None:
        if not hashes.is_file():
            raise ImageError(f"{hashes} does not exist; `python requirements/hashes.py {image.locks[0]}` writes it")
        shutil.copy2(hashes, requirements / f"{image.locks[0]}.txt")
    if name == "serve" and root is not None:
        shutil.copytree(champion(root), context / "bento" / "seed")
    write_pip_settings(requirements, pip_settings(), image.locks)


def champion(root: Path) -> Path:
    """The bundle that is live below an artifact root.

    Raises:
        ImageError: none is.
    """
    pointer = root / "serving" / "current.json"
    if not pointer.is_file():
        raise ImageError(
            f"no champion below {root} ({pointer} is absent); run `llm4msr run` first, or leave out the root"
        )
    return root / json.loads(pointer.read_text(encoding="utf-8"))["bundle"]


def pip_settings() -> dict[str, str]:
    """What pip uses on this machine, from its files and its environment variables, of the settings in `SOURCES`."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    found = dict(re.findall(r"^(?:global|install|:env:)\.([a-z-]+)='(.*)'$", listed, re.MULTILINE))
    variables = {key: os.environ.get("PIP_" + key.upper().replace("-", "_")) for key in SOURCES}
    found |= {key: value for key, value in variables.items() if value}
    certificate = next((os.environ[key] for key in CERTIFICATES if os.environ.get(key)), found.get("cert"))
    return {key: found[key] for key in SOURCES if key in found} | ({"cert": certificate} if certificate else {})


def write_pip_settings(folder: Path, settings: dict[str, str], locks: Sequence[str]) -> None:
    """Write `pip.conf` into a folder, with the wheels and certificates that it names copied beside it.

    Args:
        folder: of the locks in the build context; its folder `pip` is /build/requirements/pip while the image is built.
        settings: of pip.
        locks: names of the locks there; of a folder of wheels only what they list is copied.
    """
    inside = "/build/requirements/pip"
    wanted = {
        _normal(line.split("==")[0]) for lock in locks for line in (folder / f"{lock}.txt").read_text().splitlines()
    }
    target = folder / "pip"
    target.mkdir()
    kept = dict(settings)
    links = []
    for place in settings.get("find-links", "").split():
        if not Path(place.removeprefix("file://")).is_dir():
            links.append(place)
            continue
        (target / "wheels").mkdir(exist_ok=True)
        for wheel in sorted(Path(place.removeprefix("file://")).glob("*.whl")):
            if _normal(wheel.name.split("-")[0]) in wanted:
                shutil.copy2(wheel, target / "wheels")
        links.append(f"{inside}/wheels")
    if links:
        kept["find-links"] = " ".join(dict.fromkeys(links))
    for key in ("index-url", "extra-index-url"):
        # A folder of this machine is not there while the image is built.
        kept[key] = " ".join(url for url in settings.get(key, "").split() if not url.startswith("file:"))
    if certificate := settings.get("cert"):
        shutil.copy2(certificate, target / "ca.pem")
        kept["cert"] = f"{inside}/ca.pem"
    lines = [f"{key} = {value}" for key, value in kept.items() if value]
    (target / "pip.conf").write_text("\n".join(["[global]", *lines, ""]), encoding="utf-8")


def version() -> str:
    """The version that pyproject.toml names."""
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    return re.search(r'^version = "(.+)"$', text, re.MULTILINE)[1]  # type: ignore[index]


def revision() -> str:
    """The commit that is checked out, or `unknown`."""
    git = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
    done = subprocess.run(git, capture_output=True, text=True) if shutil.which("git") else None
    return done.stdout.strip() if done and done.returncode == 0 else "unknown"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make image", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(IMAGES))
    parser.add_argument("--root", type=Path, help="artifact root whose champion becomes the seed of `serve`")
    parser.add_argument("--tag", help="name and tag [default: llm4msr-NAME:VERSION]")
    parser.add_argument("--engine", choices=ENGINES, help="[default: the first that answers]")
    parser.add_argument("--base", help="another base image with Python 3.11, e.g. a mirror's")
    parser.add_argument("--hashes", type=Path, help="a lock with hashes, see requirements/hashes.py")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
