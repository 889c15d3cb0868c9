"""`llm4msr verify`: every artifact is read again and compared with what was published, and every pointer followed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from core import ArtifactStore, Manifest, Settings, progress
from core.contracts.pointers import BundlePointer, CataloguePointer, PushPointer
from core.errors import CorruptArtifactError, MissingArtifactError
from core.manifest import read_manifest


@dataclass
class Verified:
    """What was found.

    Attributes:
        artifacts: how many were read.
        bytes: of their data files.
        faults: one sentence each; it names a file.
    """

    artifacts: int = 0
    bytes: int = 0
    faults: list[str] = field(default_factory=list)


def verify(settings: Settings, stages: list[str]) -> Verified:
    """Read artifacts again, and follow references and pointers.

    Args:
        settings: names the root; nothing below it is changed.
        stages: whose artifacts; none: all.

    Raises:
        MissingArtifactError: a stage has no artifact here.
    """
    store = ArtifactStore(settings.root)
    known = store.stages()
    if missing := [stage for stage in stages if stage not in known]:
        raise MissingArtifactError(
            f"no artifact of {missing[0]!r} below {store.root}; there are {', '.join(known) or 'none'}"
        )
    found = Verified()
    chosen = stages or known
    folders = [folder for stage in chosen for folder in sorted((store.root / "objects" / stage).glob("*/"))]
    for folder in progress(folders, unit="artifacts"):
        found.artifacts += 1
        try:
            manifest = read_manifest(folder)
            found.bytes += _size(manifest)
            manifest.check()
        except CorruptArtifactError as error:
            found.faults.append(str(error))
    for stage in chosen:
        for ref, place in store.refs(stage).items():
            if not place.is_dir():
                found.faults.append(f"{ref}: names {place}, which is gone; run that window again")
    if not stages:
        found.faults += _pointer_faults(store)
    return found


def _size(manifest: Manifest) -> int:
    files = (manifest.file(name) for name in manifest.files)
    return sum(os.lstat(file).st_size for file in files if file.is_file())


def _pointer_faults(store: ArtifactStore) -> Iterator[str]:
    """What is wrong with the pointers of serving: unreadable, leading out, naming what is gone or another artifact."""
    root = store.root
    named: list[tuple[Path, Path, str | None]] = []
    try:
        if (champion := BundlePointer.read(root)) is not None:
            path = BundlePointer.path(root)
            releases = [one for one in (champion, champion.previous) if one is not None]
            named += [(path, one.folder(root), one.digest) for one in releases]
        if (catalogue := CataloguePointer.read(root)) is not None:
            path = CataloguePointer.path(root)
            named += [(path, one.folder(root), one.digest) for one in (catalogue, *catalogue.texts.values())]
        if (push := PushPointer.read(root)) is not None:
            folders = [*push.source_folders(root), push.knowledge_folder(root)]
            named += [(PushPointer.path(root), folder, None) for folder in folders]
    except CorruptArtifactError as error:
        yield str(error)
    for pointer, folder, digest in dict.fromkeys(named):
        artifact = folder if folder.parent.parent.name == "objects" else folder.parent
        if not folder.is_dir():
            yield f"{pointer}: names {folder}, which is gone"
        elif digest is not None and read_manifest(artifact).digest != digest:
            yield f"{pointer}: {artifact} is not the artifact that was published"
