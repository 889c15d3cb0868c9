"""The artifact store: immutable, content-addressed outputs of stages, published atomically.

    root/objects/STAGE/FINGERPRINT/   manifest.json, run.json and the data files
    root/refs/STAGE/WINDOW.json       which object a window has now; latest.json beside them
    root/pins/NAME.json               values decided once, e.g. where training starts
    root/tmp/                         work in progress; renamed into objects/ when complete
    root/locks/STAGE.lock             held while a process builds the stage

A process may be killed anywhere: an object is either whole or absent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from core.clock import Clock, wall
from core.digest import canonical_json, sha256_file, sha256_json
from core.errors import CorruptArtifactError, MissingArtifactError, StorageError
from core.files import flush, replace_json, write_json
from core.filesystem import locked
from core.log import logger
from core.manifest import FILE, RUN_FOLDER, Built, Manifest, content_digest, read_manifest
from core.resources import DEFAULT_MEMORY, memory_limit
from core.source import code_version
from core.window import Window

LOG = logger("store")


class ArtifactStore:
    """Publishes and finds artifacts below `root`.

    Args:
        root: a folder, made when missing.
        clock: what `run.json` calls now.
        memory: bytes that databases of a builder may hold.
    """

    def __init__(self, root: str | Path, clock: Clock | None = None, memory: int = DEFAULT_MEMORY) -> None:
        self.root, self.memory = Path(root), memory
        self.clock = clock or wall()

    def build(
        self,
        stage: str,
        window: Window,
        *,
        inputs: Mapping[str, str],
        settings: Mapping[str, Any],
        rooms: Iterable[str],
        builder: Callable[[Path], Built],
        still_valid: Callable[[Manifest], bool] | None = None,
    ) -> Manifest:
        """Run `builder` in a temporary folder and publish what it wrote, or find that it was published before.

        One process at a time builds a stage below a root: a second one waits, and then finds what the first has made.

        Args:
            stage: the stage's name.
            window: the event time it covers.
            inputs: name to digest of everything read.
            settings: the part of the settings that shapes the output.
            rooms: the rooms whose code shapes the output.
            builder: writes files into the folder it is given.
            still_valid: for stages with effects outside the store; False means that they are lost and must be redone.

        Returns:
            The manifest; `reused` is True when nothing was done.

        Raises:
            StorageError: the disk is full or the root cannot be written.
        """
        code = code_version(rooms)
        identity = {
            "stage": stage,
            "window": window.as_json(),
            "inputs": dict(inputs),
            "settings": json.loads(canonical_json(settings)),
            "code": code,
        }
        fingerprint = sha256_json(identity)
        target = self.root / "objects" / stage / fingerprint[:16]
        begin = time.monotonic()
        with _storage_errors(self.root), self.turn(stage):
            replace = still_valid is not None
            if target.is_dir():
                manifest = dataclasses.replace(read_manifest(target), reused=True)
                if manifest.rewritten is None and (still_valid is None or still_valid(manifest)):
                    self._point(stage, window, manifest)
                    LOG.info("%s: up to date, nothing to do (%s)", stage, fingerprint[:16])
                    return manifest
                lost = "something was taken out of it" if manifest.rewritten else "what it wrote elsewhere is gone"
                LOG.warning("%s: %s; doing it again", stage, lost)
                replace = True
            self._sweep()
            work = self._temporary(stage)
            try:
                self._fill(work, {**identity, "fingerprint": fingerprint}, builder)
                if replace:
                    self.retire(target)
                _publish(work, target)
            finally:
                shutil.rmtree(work, ignore_errors=True)
            manifest = read_manifest(target)
            self._point(stage, window, manifest)
        counts = ", ".join(f"{name} {count:,}" for name, count in manifest.rows.items())
        LOG.info("%s: %s (%.1f s)", stage, counts or "done", time.monotonic() - begin)
        return manifest

    def get(self, stage: str, window: Window | None = None) -> Manifest:
        """The newest artifact of a stage, or that of a window.

        Raises:
            MissingArtifactError: there is none.
        """
        name = window.key if window is not None else "latest"
        folder = self._named(self.root / "refs" / stage / f"{name}.json")
        if folder is None or not folder.is_dir():
            raise MissingArtifactError(
                f"no {stage} artifact for window {name!r} below {self.root}; run `llm4msr {stage}` first"
            )
        return read_manifest(folder)

    def has(self, stage: str, window: Window) -> bool:
        """Whether there is an artifact of a window."""
        folder = self._named(self.root / "refs" / stage / f"{window.key}.json")
        return folder is not None and folder.is_dir()

    def all(self, stage: str, until: Window | None = None) -> list[Manifest]:
        """The current artifact of every window of a stage, in order of the windows' start.

        A window whose artifact was deleted by hand is left out, with a warning: running that window makes it again.

        Args:
            stage: the stage's name.
            until: leave out windows that end after this one ends.
        """
        named = {ref: folder for ref, folder in self.refs(stage).items() if ref.stem != "latest"}
        for ref in (ref for ref, folder in named.items() if not folder.is_dir()):
            LOG.warning("%s of window %s is gone and counts for nothing; run that window again", stage, ref.stem)
        found = [read_manifest(folder) for folder in named.values() if folder.is_dir()]
        if until is not None and until.end is not None:
            limit = until.end.isoformat()
            found = [m for m in found if m.window["end"] is not None and str(m.window["end"]) <= limit]
        return sorted(found, key=lambda m: (m.window["start"] or "", m.window["end"] or "~"))

    def refs(self, stage: str) -> dict[Path, Path]:
        """Each reference of a stage, one a window and `latest`, and the object's folder it names."""
        folder = self.root / "refs" / stage
        found = {ref: self._named(ref) for ref in sorted(folder.glob("*.json"))} if folder.is_dir() else {}
        return {ref: place for ref, place in found.items() if place is not None}

    def _named(self, ref: Path) -> Path | None:
        """The folder that a reference names; None where there is no reference, or one that cannot be read."""
        try:
            return self.root / "objects" / ref.parent.name / json.loads(ref.read_text())["object"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            LOG.warning("%s is damaged and counts for nothing; run that window again", ref)
            return None

    @contextlib.contextmanager
    def turn(self, stage: str) -> Iterator[None]:
        """A lock that ends with the process, however that ends; whoever waits for it says so."""
        waiting = functools.partial(LOG.info, "%s: another process is at it below %s; waiting for it", stage, self.root)
        with locked(self.root / "locks" / f"{stage}.lock", waiting):
            yield

    def retire(self, target: Path) -> None:
        """Take an object away in one step, so that no reader meets a half of it; references to it stay."""
        away = self._temporary(target.parent.name)
        with contextlib.suppress(FileNotFoundError):
            target.rename(away / "retired")
        shutil.rmtree(away, ignore_errors=True)

    def rewrite(
        self,
        folder: Path,
        why: str,
        files: Iterable[str],
        rows: Mapping[str, int],
        before: Callable[[str, str], None] = lambda old, new: None,
    ) -> None:
        """Describe an artifact anew of which files were replaced or removed: no more what its inputs make.

        It serves whoever refers to it until it is built again, which `build` then does.

        Args:
            folder: the artifact.
            why: for the manifest.
            files: names of the files that were replaced or removed.
            rows: counts that changed.
            before: called with the digest it had and the one it gets, if they differ, before the manifest says so.
        """
        old = read_manifest(folder)
        held = dict(old.files)
        for name in files:
            held.pop(name, None)
            if (folder / name).is_file() and Path(name).parts[0] != RUN_FOLDER:
                held[name] = sha256_file(folder / name)
        counts = {**old.rows, **rows}
        digest = content_digest(held, counts, old.versions)
        if digest != old.digest:
            before(old.digest, digest)
            self._describe(dataclasses.replace(old, files=held, rows=counts, digest=digest, rewritten=why))

    def change_inputs(self, manifest: Manifest, inputs: Mapping[str, str]) -> None:
        """Let an artifact name other digests of what it was made from, after those were rewritten."""
        if dict(inputs) != dict(manifest.inputs):
            self._describe(dataclasses.replace(manifest, inputs=dict(inputs)))

    def follow(self, renamed: Callable[[str], str]) -> None:
        """Let every artifact and reference name the digests that rewritten artifacts have now.

        Args:
            renamed: the digest that one has now; itself where it was not rewritten.
        """
        for manifest in self.every():
            self.change_inputs(manifest, {name: renamed(digest) for name, digest in manifest.inputs.items()})
        for ref in sorted((self.root / "refs").glob("*/*.json")):
            body = json.loads(ref.read_text())
            if (digest := renamed(body["digest"])) != body["digest"]:
                replace_json(ref, {**body, "digest": digest})

    def _describe(self, manifest: Manifest) -> None:
        replace_json(manifest.path / FILE, manifest.as_json())

    def find(
        self, stage: str, *, digest: str | None = None, versions: Mapping[str, str] | None = None
    ) -> list[Manifest]:
        """Every artifact of a stage that is there, whether or not a window refers to it, in order of windows.

        One whose manifest cannot be read needs a person: it is left out, with a warning.

        Args:
            stage: the stage's name.
            digest: only those with this content.
            versions: only those whose versions hold all of these.
        """
        found = []
        for folder in sorted((self.root / "objects" / stage).glob("*/")):
            try:
                manifest = read_manifest(folder)
            except CorruptArtifactError as error:
                LOG.warning("%s", error)
                continue
            same = digest is None or manifest.digest == digest
            if same and (versions is None or versions.items() <= manifest.versions.items()):
                found.append(manifest)
        return sorted(found, key=lambda manifest: manifest.order)

    def every(self) -> list[Manifest]:
        """Every artifact of every stage, as `find` gives them."""
        return [manifest for stage in self.stages() for manifest in self.find(stage)]

    def stages(self) -> list[str]:
        """Stages that have artifacts here, in order of the alphabet."""
        return sorted(folder.name for folder in (self.root / "objects").glob("*/"))

    def pinned(self, name: str) -> Any:
        """The value that was pinned under a name, or None."""
        path = self.root / "pins" / f"{name}.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def pin(self, name: str, compute: Callable[[], Any]) -> Any:
        """A JSON value that is computed once and then kept, whoever asks; the first writer wins."""
        path = self.root / "pins" / f"{name}.json"
        if not path.is_file():
            with memory_limit(self.memory):
                value = compute()
            with _storage_errors(self.root):
                path.parent.mkdir(parents=True, exist_ok=True)
                scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
                try:
                    write_json(scratch, value)
                    with locked(path.with_name(".lock")):
                        if not path.is_file():
                            scratch.replace(path)
                finally:
                    scratch.unlink(missing_ok=True)
        return json.loads(path.read_text())

    def _fill(self, work: Path, identity: Mapping[str, Any], builder: Callable[[Path], Built]) -> None:
        """Run the builder and write run.json and manifest.json beside its files, all of it flushed to the disk."""
        started, begin = self.clock.now(), time.monotonic()
        with memory_limit(self.memory):
            built = builder(work)
        rows = {name: int(count) for name, count in built.rows.items()}
        files, versions = _digest_files(work), json.loads(canonical_json(dict(built.versions)))
        run = {
            "run_id": uuid.uuid4().hex,
            "started_at": started.isoformat(),
            "seconds": round(time.monotonic() - begin, 3),
            "host": socket.gethostname(),
        }
        write_json(work / "run.json", run)
        content = {"files": files, "rows": rows, "versions": versions}
        write_json(work / FILE, {**identity, **content, "digest": content_digest(files, rows, versions)})
        for name in files:
            flush(work / name)

    def point_latest(self, manifest: Manifest) -> None:
        """Let `latest` of a stage be this artifact, after one of an earlier window was made anew."""
        body = {"object": manifest.path.name, "digest": manifest.digest}
        replace_json(self.root / "refs" / manifest.stage / "latest.json", body)

    def _point(self, stage: str, window: Window, manifest: Manifest) -> None:
        body = {"object": manifest.path.name, "digest": manifest.digest}
        for name in (window.key, "latest"):
            replace_json(self.root / "refs" / stage / f"{name}.json", body)

    def _temporary(self, stage: str) -> Path:
        work = self.root / "tmp" / f"{stage}-{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        work.mkdir(parents=True)
        return work

    def _sweep(self) -> None:
        """Remove what killed processes of this machine left behind."""
        folder = self.root / "tmp"
        for left in folder.iterdir() if folder.is_dir() else ():
            host, pid = left.name.rsplit("-", 3)[1:3] if left.name.count("-") >= 3 else ("", "")
            if host == _host() and pid.isdigit() and not _alive(int(pid)):
                shutil.rmtree(left, ignore_errors=True)


def _digest_files(work: Path) -> dict[str, str]:
    return {
        str(path.relative_to(work)): sha256_file(path)
        for path in sorted(work.rglob("*"))
        if path.is_file() and path.relative_to(work).parts[0] != RUN_FOLDER
    }


def _publish(work: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        work.rename(target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        LOG.info("%s was published by another process meanwhile", target)


def _host() -> str:
    return socket.gethostname().replace("-", "_")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def _storage_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(root).free if root.exists() else 0
            raise StorageError(
                f"the disk of {root} is full ({free >> 20} MiB free); nothing was published; "
                "free some space and run again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise StorageError(f"{error.filename or root} cannot be used ({error.strerror})") from error
        raise
