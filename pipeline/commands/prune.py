"""Which artifacts nothing needs any more, and their removal.

Kept are, of the stages that work on the whole log so far, the newest windows and the newest artifact; everything that
serving points to (the champion, the one before it, the catalogues, what pushes build on); everything those were made
from; and of ingest, validation and replay what is the newest of its window, from which the rest can be built again. What a
window was read as before goes, and with it rows of people whom the log no longer has.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core import ArtifactStore, Clock, Manifest, Settings, logger, to_micros, wall
from core.contracts.bundle_spec import BundleSpec
from core.contracts.kinds import by_name
from core.contracts.pointers import BundlePointer, CataloguePointer, PushPointer
from core.errors import CorruptArtifactError
from pipeline.graph import newest_alone

LOG = logger("pipeline")
# Read by later windows: each window keeps its newest.
SOURCES = ("ingest", "validate", "replay")
# Artifacts whose newest window stands for all earlier ones.
CUMULATIVE = newest_alone()


@dataclass(frozen=True)
class Unneeded:
    """An artifact that can go, with the references to it that go with it."""

    stage: str
    window: str
    path: Path
    refs: tuple[Path, ...]
    size: int


def unneeded(settings: Settings, keep: int, min_age: dt.timedelta, clock: Clock | None = None) -> list[Unneeded]:
    """Artifacts that nothing needs, in order of stage and window.

    Args:
        settings: names the root.
        keep: newest windows to keep of every stage.
        min_age: younger artifacts stay: a run may be about to refer to them.
        clock: what now is.

    Raises:
        CorruptArtifactError: a champion's bundle is not whole, or a pointer cannot be read.
    """
    store = ArtifactStore(settings.root)
    every = {manifest.path: manifest for manifest in store.every()}
    refs = {stage: store.refs(stage) for stage in (*SOURCES, *CUMULATIVE)}
    # One window more of knowledge: the oldest window that is kept was compared with the one before it.
    wanted = {p for stage in CUMULATIVE for p in _newest(refs[stage], every, keep + (stage == "knowledge"))}
    wanted |= {path for stage in SOURCES for path in refs[stage].values()}
    pointed = _pointed(store.root)
    wanted |= pointed | _around_champions(store, pointed, every)
    needed = _with_inputs(wanted, every)
    youngest = to_micros((clock or wall()).now() - min_age) * 1000
    found = []
    for path, manifest in every.items():
        stage = path.parent.name
        if stage not in refs or path in needed or manifest.published_ns > youngest:
            continue
        own = tuple(ref for ref, place in refs[stage].items() if place == path)
        found.append(Unneeded(stage, _window(manifest), path, own, _size(path)))
    return sorted(found, key=lambda one: (list(refs).index(one.stage), one.window))


def remove(settings: Settings, artifacts: list[Unneeded]) -> int:
    """Remove artifacts, references first, so that a kill leaves no reference to nothing.

    Returns:
        Bytes that were freed.
    """
    store = ArtifactStore(settings.root)
    for artifact in artifacts:
        for ref in artifact.refs:
            ref.unlink(missing_ok=True)
        store.retire(artifact.path)
        LOG.info("removed %s of %s, %.1f MiB", artifact.stage, artifact.window, artifact.size / 2**20)
    return sum(artifact.size for artifact in artifacts)


def _newest(refs: Mapping[Path, Path], every: Mapping[Path, Manifest], keep: int) -> list[Path]:
    windows = {ref: path for ref, path in refs.items() if ref.stem != "latest" and path in every}
    order = sorted(windows, key=lambda ref: every[windows[ref]].order)
    return [windows[ref] for ref in order[-keep:]] + [path for ref, path in refs.items() if ref.stem == "latest"]


def _pointed(root: Path) -> set[Path]:
    """Artifacts that the pointers of serving name.

    Raises:
        CorruptArtifactError: a pointer cannot be read, so what it names is not known.
    """
    champion, catalogue, push = BundlePointer.read(root), CataloguePointer.read(root), PushPointer.read(root)
    found: set[Path] = set()
    if champion is not None:
        found |= {one.folder(root).parent for one in (champion, champion.previous) if one is not None}
    if catalogue is not None:
        found |= {one.folder(root) for one in (catalogue, *catalogue.texts.values())}
    if push is not None:
        found |= {*push.source_folders(root), push.knowledge_folder(root)}
    return found


def _around_champions(store: ArtifactStore, pointed: set[Path], every: Mapping[Path, Manifest]) -> set[Path]:
    """Of each champion its verdict, and the newest knowledge of the versions it reads: the next comparison scores it
    with that.
    """
    found: set[Path] = set()
    for train in (path for path in pointed if path.parent.name == "train" and path in every):
        digest = every[train].digest
        found |= {p for p, m in every.items() if m.stage == "promote" and m.inputs.get("train") == digest}
        try:
            reads = BundleSpec.read(train / "bundle_knowledge").versions
        except FileNotFoundError as error:
            raise CorruptArtifactError(
                f"{error.filename} is gone: a champion is damaged, and nothing is pruned until it is whole"
            ) from error
        found |= {manifest.path for manifest in store.find("knowledge", versions=by_name(reads))[-1:]}
    return found


def _with_inputs(wanted: set[Path], every: Mapping[Path, Manifest]) -> set[Path]:
    """Artifacts and all they were made from; an earlier window that was only compared with does not count."""
    # Of two with the same content the one that is wanted anyway will do.
    order = sorted(every, key=lambda path: path in wanted)
    places = {every[path].digest: path for path in order}
    needed, waiting = set(), [path for path in wanted if path in every]
    while waiting:
        path = waiting.pop()
        if path not in needed:
            needed.add(path)
            read = [digest for name, digest in every[path].inputs.items() if not name.startswith("earlier")]
            waiting += [places[digest] for digest in read if digest in places]
    return needed


def _size(path: Path) -> int:
    return sum(os.lstat(file).st_size for file in path.rglob("*") if file.is_file())


def _window(manifest: Manifest) -> str:
    bounds = manifest.window
    return f"{bounds['start'] or 'the start'} to {bounds['end'] or 'the end'}"
