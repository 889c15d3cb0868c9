"""The pointers below `root/serving` that running services poll. Each is replaced as a whole."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from core.clock import as_utc
from core.contracts.contract import Contract
from core.errors import CorruptArtifactError
from core.files import replace_json

FOLDER = "serving"


class Pointer(Contract):
    """A pointer's file. Its places are relative to the root and lie within it."""

    FILE: ClassVar[str]
    REMAKE: ClassVar[str] = "delete it, and the next `llm4msr run` writes it anew"

    @classmethod
    def path(cls, root: Path) -> Path:
        """Where it lies below a root."""
        return root / FOLDER / cls.FILE

    @classmethod
    def read(cls, root: Path) -> Self | None:
        """The pointer of a root; None where nothing was published.

        Raises:
            CorruptArtifactError: the file cannot be used; the message names it.
        """
        try:
            return cls.read_file(cls.path(root))
        except FileNotFoundError:
            return None

    def publish(self, root: Path) -> None:
        """Let it be the pointer of a root: readers see the one before or this one, whole."""
        replace_json(self.path(root), self.as_json())


class Release(BaseModel):
    """A bundle that was made live.

    Attributes:
        bundle: its folder, relative to the root.
        digest: content digest of the training artifact that holds it.
        model: the model's name.
        version: counts up; no two releases of a root share one.
        promoted_at: when, ISO 8601.
        reason: why, in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: str
    digest: str
    model: str
    version: int
    promoted_at: str
    reason: str

    @property
    def time(self) -> dt.datetime:
        """`promoted_at` as a time."""
        return as_utc(self.promoted_at)

    def folder(self, root: Path) -> Path:
        """The bundle's folder.

        Raises:
            CorruptArtifactError: it lies outside the root.
        """
        return confined(root, self.bundle, BundlePointer.path(root))


class BundlePointer(Pointer, Release):
    """`current.json`: the release that is live, and the one before it."""

    FILE: ClassVar[str] = "current.json"

    format: int = 1
    previous: Release | None = None

    @property
    def release(self) -> Release:
        """What is live, without the one before."""
        return Release(**self.model_dump(include=set(Release.model_fields)))

    @classmethod
    def of(cls, release: Release, previous: Release | None) -> BundlePointer:
        """A pointer to a release."""
        return cls(**release.model_dump(), previous=previous)

    @classmethod
    def upgraded(cls, body: dict) -> dict:
        """Earlier ones have `{}` for a release that is not there."""
        return {**body, "previous": body.get("previous") or None}


class PublishedCatalogue(BaseModel):
    """A catalogue: its folder, relative to the root, and its content digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    catalogue: str
    digest: str

    def folder(self, root: Path) -> Path:
        """The artifact's folder.

        Raises:
            CorruptArtifactError: it lies outside the root.
        """
        return confined(root, self.catalogue, CataloguePointer.path(root))


class CataloguePointer(Pointer, PublishedCatalogue):
    """`catalogue.json`: the newest catalogue, and the newest one with text vectors of each version, so that bundles roll back.

    Attributes:
        texts: version of item text vectors to its newest catalogue.
        order: those versions, oldest first.
    """

    FILE: ClassVar[str] = "catalogue.json"
    REMAKE: ClassVar[str] = "delete it, and `llm4msr materialize` writes it anew"

    format: int = 1
    texts: dict[str, PublishedCatalogue] = Field(default_factory=dict)
    order: list[str] = Field(default_factory=list)

    @classmethod
    def upgraded(cls, body: dict) -> dict:
        """Earlier ones name no order."""
        return {"order": list(body.get("texts", {})), **body}

    @classmethod
    def after(
        cls, held: CataloguePointer | None, newest: PublishedCatalogue, version: str, keep: int
    ) -> CataloguePointer:
        """The pointer that follows another one.

        Args:
            held: the pointer before; None: there was none.
            newest: the catalogue to publish.
            version: of its text vectors.
            keep: how many other versions of text vectors stay.
        """
        texts, order = (held.texts, held.order) if held is not None else ({}, [])
        kept = [old for old in order if old != version and old in texts][-keep:]
        return cls(
            catalogue=newest.catalogue,
            digest=newest.digest,
            texts={**{old: texts[old] for old in kept}, version: newest},
            order=[*kept, version],
        )


class PushPointer(Pointer):
    """`push.json`: what pushed interactions build on.

    Attributes:
        sources: validated artifacts, oldest window first, relative to the root.
        knowledge: the knowledge artifact, relative to the root.
        as_of: the clock's now when it was materialised, microseconds.
    """

    FILE: ClassVar[str] = "push.json"
    REMAKE: ClassVar[str] = "delete it, and `llm4msr materialize` writes it anew"

    format: int = 1
    sources: list[str] = Field(min_length=1)
    knowledge: str
    as_of: int

    def source_folders(self, root: Path) -> list[Path]:
        """The validated artifacts' folders.

        Raises:
            CorruptArtifactError: one lies outside the root.
        """
        return [confined(root, place, self.path(root)) for place in self.sources]

    def knowledge_folder(self, root: Path) -> Path:
        """The knowledge artifact's folder; raises as `source_folders`."""
        return confined(root, self.knowledge, self.path(root))


def rename_digests(root: Path, renamed: Callable[[str], str]) -> None:
    """Let the pointers of a root name the digests that rewritten artifacts have now.

    Args:
        root: of the artifacts.
        renamed: the digest that one has now; itself where it was not rewritten.

    Raises:
        CorruptArtifactError: a pointer cannot be read.
    """

    def follow(one: Any) -> Any:
        return one and one.model_copy(update={"digest": renamed(one.digest)})

    champion, catalogue = BundlePointer.read(root), CataloguePointer.read(root)
    if champion is not None:
        new = follow(champion).model_copy(update={"previous": follow(champion.previous)})
        if new != champion:
            new.publish(root)
    if catalogue is not None:
        texts = {version: follow(one) for version, one in catalogue.texts.items()}
        changed = follow(catalogue).model_copy(update={"texts": texts})
        if changed != catalogue:
            changed.publish(root)


def confined(root: Path, place: str, pointer: Path) -> Path:
    """A place below the root.

    Raises:
        CorruptArtifactError: it is absolute, or leads out of the root.
    """
    if Path(place).is_absolute() or Path(os.path.normpath(place)).parts[:1] in ((), ("..",)):
        raise CorruptArtifactError(f"{pointer}: names {place!r}, which does not lie below {root}; it is not followed")
    return root / place
