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
import errno
import functools
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.clock import Clock, wall
from core.digest import canonical_json, sha256_file, sha256_json
from core.errors import CorruptArtifactError, MissingArtifactError, StorageError
from core.filesystem import locked
from core.log import logger
from core.source import code_version
from core.window import Window

LOG = logger("store")
# Files below this folder of an artifact (logs, timings, Data Docs) do not count for the content digest.
RUN_FOLDER = "run"


@dataclass(frozen=True)
class Built:
    """What a stage's builder reports: row counts and versions, both part of the content digest."""

    rows: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """A published artifact. `digest` covers data files, rows and versions, not times or run ids.

    `rewritten` says why it is no longer what its inputs make (see `ArtifactStore.rewrite`): it stands in until it is
    built anew.
    """

    stage: str
    window: Mapping[str, str | None]
    fingerprint: str
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]
    code: str
    rows: Mapping[str, int]
    versions: Mapping[str, Any]
    files: Mapping[str, str]
    digest: str
    path: Path
    reused: bool = False
    rewritten: str | None = None

    def file(self, name: str) -> Path:
        """The path of a data file of this artifact."""
        return self.path / name


class ArtifactStore:
    """Publishes and finds artifacts below `root`.

    Args:
        root: a folder, made when missing.
        clock: what `run.json` calls now.
    """

    def __init__(self, root: str | Path, clock: Clock | None = None) -> None:
        self.root = Path(root)
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
                manifest = self._load(target, reused=True)
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
            manifest = self._load(target)
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
        return self._load(folder)

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
        found = [self._load(folder) for folder in named.values() if folder.is_dir()]
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
        body = json.loads((folder / "manifest.json").read_text())
        held = dict(body["files"])
        for name in files:
            held.pop(name, None)
            if (folder / name).is_file() and Path(name).parts[0] != RUN_FOLDER:
                held[name] = sha256_file(folder / name)
        content = {"files": held, "rows": {**body["rows"], **rows}, "versions": body["versions"]}
        digest = sha256_json(content)
        if digest != body["digest"]:
            before(body["digest"], digest)
            replace_json(folder / "manifest.json", {**body, **content, "digest": digest, "rewritten": why})

    def verify(self, manifest: Manifest) -> None:
        """Re-read an artifact's files and check them, and the counts and versions, against its digest.

        Raises:
            CorruptArtifactError: a file is missing, or something differs from what was published.
        """
        content = {"files": manifest.files, "rows": manifest.rows, "versions": manifest.versions}
        if sha256_json(content) != manifest.digest:
            raise CorruptArtifactError(f"{manifest.path}: manifest.json was altered; delete the folder and run again")
        for name, digest in manifest.files.items():
            path = manifest.path / name
            if not path.is_file() or sha256_file(path) != digest:
                raise CorruptArtifactError(
                    f"{path}: not the bytes that were published; delete {manifest.path} and run again"
                )

    def pinned(self, name: str) -> Any:
        """The value that was pinned under a name, or None."""
        path = self.root / "pins" / f"{name}.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def pin(self, name: str, compute: Callable[[], Any]) -> Any:
        """A JSON value that is computed once and then kept, whoever asks; the first writer wins."""
        path = self.root / "pins" / f"{name}.json"
        if not path.is_file():
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
        built = builder(work)
        rows = {name: int(count) for name, count in built.rows.items()}
        files, versions = _digest_files(work), json.loads(canonical_json(dict(built.versions)))
        content = {"files": files, "rows": rows, "versions": versions}
        run = {
            "run_id": uuid.uuid4().hex,
            "started_at": started.isoformat(),
            "seconds": round(time.monotonic() - begin, 3),
            "host": socket.gethostname(),
        }
        write_json(work / "run.json", run)
        write_json(work / "manifest.json", {**identity, **content, "digest": sha256_json(content)})
        for name in files:
            _flush(work / name)

    def point_latest(self, manifest: Manifest) -> None:
        """Let `latest` of a stage be this artifact, after one of an earlier window was made anew."""
        body = {"object": manifest.path.name, "digest": manifest.digest}
        replace_json(self.root / "refs" / manifest.stage / "latest.json", body)

    def _point(self, stage: str, window: Window, manifest: Manifest) -> None:
        body = {"object": manifest.path.name, "digest": manifest.digest}
        for name in (window.key, "latest"):
            replace_json(self.root / "refs" / stage / f"{name}.json", body)

    def _load(self, folder: Path, reused: bool = False) -> Manifest:
        try:
            body = json.loads((folder / "manifest.json").read_text())
            return Manifest(**body, path=folder, reused=reused)
        except (OSError, ValueError, TypeError) as error:
            raise CorruptArtifactError(
                f"{folder}: no readable manifest.json ({error}); delete the folder and run again"
            ) from error

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


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with sorted keys and flush it to the disk."""
    with path.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1, sort_keys=True, ensure_ascii=False, default=str)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())


def replace_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old or the new file, never a part."""
    replace_file(path, lambda scratch: write_json(scratch, value))


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside its place and rename it there: a reader sees the old or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        write(scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


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


def _flush(path: Path) -> None:
    """Bytes on the disk before the name is: a power cut must not leave an empty file under a good manifest."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


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
