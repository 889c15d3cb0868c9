"""What a serving process holds, and how it changes under load.

`serving/current.json` names the bundle and `serving/catalogue.json` the catalogue. A thread polls both, loads what is
new beside what is live, checks it, and swaps one reference. What fails its check is refused and the old stays.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import feature_repo
import models
from bento.catalogue import Catalogue, load_catalogue
from bento.metrics import REFUSED_BUNDLES, SWAP_SECONDS, Gauges, store_read
from bento.package import own_seed
from core import Clock, Settings, from_micros, logger, make_clock
from core.contracts.pointers import BundlePointer, CataloguePointer
from core.errors import BundleError, Llm4msrError, MissingArtifactError, StorageError
from core.manifest import FILE as MANIFEST
from core.manifest import read_manifest

if TYPE_CHECKING:
    from feature_repo import OnlineReader
    from models import Bundle, PreparedItems

LOG = logger("bento")
MISSING_COLUMN = "user_features:missing_column"
SEED_VARIABLE = "LLM4MSR_SEED_BUNDLE"
# A process that serves tries again what it refused: soon where a server or a stage was late, later what was damaged.
LATE_SECONDS, DAMAGED_SECONDS = 5.0, 60.0
_LATE = (StorageError, MissingArtifactError, OSError)


@dataclass(frozen=True)
class Origin:
    """Where a bundle lies and what names it.

    Attributes:
        folder: of the bundle.
        model: the model's name.
        version: of the release; 0 for a seed.
        digest: of the training artifact that holds it; none for a seed, whose own manifest must do.
        promoted_at: when, ISO 8601; none for a seed.
    """

    folder: Path
    model: str
    version: int
    digest: str | None = None
    promoted_at: str | None = None


@dataclass(frozen=True)
class LiveModel:
    """One consistent set of what answers a request; immutable, replaced as a whole.

    Attributes:
        bundle, catalogue: as the pointers name them.
        items: the catalogue as the bundle reads it.
        reader: of the views and versions that the bundle reads.
        clock: the settings' clock, at the catalogue's time where that is the log's end.
        scenario_vectors: scenario to float32 [d]; absent where it has none.
        origin: what named the bundle.
        populated: whether all views of the bundle held rows when it was loaded, or later.
        reduced: what every answer of it lacks, as answers report it.
        versions: of model and knowledge, as answers report them.
    """

    bundle: Bundle
    catalogue: Catalogue
    items: PreparedItems
    reader: OnlineReader
    clock: Clock
    scenario_vectors: dict[str, np.ndarray]
    origin: Origin
    populated: bool
    reduced: tuple[str, ...] = ()
    versions: dict[str, Any] = field(default_factory=dict)

    @property
    def scenarios(self) -> list[dict[str, str]]:
        """The scenarios that can be ranked: known to the bundle and to the catalogue."""
        return [s for s in self.catalogue.scenarios if s["scenario"] in self.bundle.spec.scenarios]

    @property
    def reads_scenarios(self) -> bool:
        return "scenario" in self.bundle.spec.vectors


# What a process loads: a bundle and a catalogue.
Named = tuple[Origin, CataloguePointer]


class Live:
    """Holds the current `LiveModel` and keeps it new.

    Args:
        settings: of the project; `root` and `serving` count here.
        exercise: called with a new model before it goes live; one that raises is refused.
    """

    def __init__(self, settings: Settings, exercise: Callable[[LiveModel], object] = lambda _: None) -> None:
        self.settings, self._exercise = settings, exercise
        self.current: LiveModel | None = None
        self.refused: str | None = None
        self._stop = threading.Event()
        self._key: Named | None = None
        self._bad_key: Named | None = None
        self._retry_at = 0.0
        self._gauges = Gauges()

    def start(self) -> None:
        """Load what is there and poll from then on, in a daemon thread: stores that do not answer hold up no start."""
        threading.Thread(target=self._poll, name="llm4msr-live", daemon=True).start()

    @property
    def waits_for(self) -> str:
        """Why nothing is live yet, in words."""
        return f"nothing to serve yet: {self.refused or 'it is being loaded'}"

    def stop(self) -> None:
        """End the polling thread."""
        self._stop.set()

    def refresh(self) -> bool:
        """Look at the pointers once; True when a new model went live."""
        key = None
        try:
            key = bundle, catalogue = self._pointers()
            if key == self._key:
                self.refused = None
                self._read_again()
                return False
            if key == self._bad_key and time.monotonic() < self._retry_at:
                return False
            with SWAP_SECONDS.time():
                model = self._load(bundle, catalogue)
        # Whatever a bad bundle raises, the thread that would load the next one must go on.
        except Exception as error:
            self._refuse(key, error)
            return False
        self.current, self._key, self._bad_key, self.refused = model, key, None, None
        LOG.info("live: bundle version %s", model.versions["version"])
        return True

    def _refuse(self, key: Named | None, error: Exception) -> None:
        if self.refused != str(error):
            known = isinstance(error, Llm4msrError)
            LOG.error("refused: %s%s", error, "; the old one stays" if self.current else "", exc_info=not known)
        REFUSED_BUNDLES.labels("late" if isinstance(error, _LATE) else "damaged").inc()
        self.refused, self._bad_key = str(error), key
        if self.current is None:
            self._serve_seed()
        wait = LATE_SECONDS if isinstance(error, _LATE) else DAMAGED_SECONDS
        self._retry_at = 0.0 if self.current is None else time.monotonic() + wait

    def _serve_seed(self) -> None:
        """Begin with the seed when the champion cannot be loaded; the champion is tried again."""
        try:
            seed, catalogue = _seed(), CataloguePointer.read(self.settings.root)
            if seed is None or catalogue is None or not BundlePointer.path(self.settings.root).is_file():
                return
            self.current = self._load(seed, catalogue)
            LOG.warning("serving the seed bundle until the champion can be loaded")
        except Exception as error:
            LOG.error("the seed bundle is no help either: %s", error)

    def _pointers(self) -> Named:
        root = self.settings.root
        champion, catalogue = BundlePointer.read(root), CataloguePointer.read(root)
        bundle = _seed() if champion is None else _origin_of(champion, root)
        if bundle is None or catalogue is None:
            raise MissingArtifactError(
                f"no bundle or no catalogue below {self.settings.root / 'serving'}; run `llm4msr run`"
            )
        return bundle, catalogue

    def _load(self, origin: Origin, pointer: CataloguePointer) -> LiveModel:
        old = self.current
        same = old is not None and (old.origin.folder, old.origin.digest) == (origin.folder, origin.digest)
        bundle = old.bundle if old and same else checked_bundle(origin)
        catalogue = self._catalogue(bundle, pointer)
        items, reduced = prepare_items(bundle, catalogue)
        clock = make_clock(self.settings, from_micros(catalogue.as_of))
        reader = self._reader(bundle, clock)
        model = LiveModel(
            bundle=bundle,
            catalogue=catalogue,
            items=items,
            reader=reader,
            clock=clock,
            scenario_vectors=dict(old.scenario_vectors) if old and same else {},
            origin=origin,
            populated=old is not None and same and old.populated,
            reduced=_reduced(reduced, reader),
            versions=_versions(bundle, catalogue, origin),
        )
        model = self._read_online(model)
        if old is not None and old.populated and not model.populated:
            raise MissingArtifactError("the views of the new bundle are not filled; run `llm4msr materialize`")
        self._exercise(model)
        return model

    def _reader(self, bundle: Bundle, clock: Clock) -> OnlineReader:
        """A reader of what the bundle was trained on, whatever columns this process's own settings declare."""
        return feature_repo.OnlineReader(self.settings, clock, bundle.spec.versions, bundle.spec.columns("user"))

    def _catalogue(self, bundle: Bundle, pointer: CataloguePointer) -> Catalogue:
        """The catalogue of the pointer, with text vectors of the version the bundle was trained on while there are any."""
        old = self.current.catalogue if self.current is not None else None
        if old is not None and old.digest == pointer.digest and has_text_of(bundle, old):
            return old
        root = self.settings.root
        new = load_catalogue(pointer.folder(root), pointer.digest)
        if has_text_of(bundle, new):
            return new
        earlier = pointer.texts.get(bundle.spec.vectors["item_text"].version)
        if earlier is not None:
            return new.with_text_of(load_catalogue(earlier.folder(root), earlier.digest))
        if old is not None and has_text_of(bundle, old):
            LOG.warning("the new catalogue has text vectors of another version; the old ones stay until a bundle fits")
            return new.with_text_of(old)
        return new

    def _read_online(self, model: LiveModel) -> LiveModel:
        """Take what the online store says, also that a vector is gone; one that does not answer leaves all as it is."""
        names = [s["scenario"] for s in model.scenarios] if model.reads_scenarios else []
        try:
            with store_read("scenarios"):
                found = {n: v for n, v in model.reader.read_scenarios(names).items() if v is not None} if names else {}
                populated = model.populated or model.reader.populated(model.bundle.spec.views)
        except StorageError as error:
            if self.current is not None and self.current.populated and not model.populated:
                raise
            LOG.warning("the online store did not answer: %s", error)
            return model
        return replace(model, scenario_vectors=found, populated=populated)

    def _read_again(self) -> None:
        """Read again what the online store could not say when the model was loaded, and what may expire since."""
        now = self.current
        if now is None or (now.populated and not self._scenarios_may_change(now)):
            return
        # A reader remembers which views the registry knew.
        reader = now.reader if now.populated else self._reader(now.bundle, now.clock)
        mended = self._read_online(replace(now, reader=reader, reduced=_reduced(now.reduced, reader)))
        if mended.populated != now.populated or not _equal(mended.scenario_vectors, now.scenario_vectors):
            self.current = mended

    def _scenarios_may_change(self, now: LiveModel) -> bool:
        """Whether a scenario's vector may still come, or expire."""
        if not now.reads_scenarios:
            return False
        return bool(self.settings.features.ttl.get("scenario")) or len(now.scenario_vectors) < len(now.scenarios)

    def _poll(self) -> None:
        # What is loaded is kept out of the garbage collector's full passes: each takes 0.3 s, in the midst of requests.
        self.refresh()
        self._gauges.tell(self.current, self.refused)
        gc.collect()
        gc.freeze()
        while not self._stop.wait(self.settings.serving.poll_seconds):
            if self.refresh():
                gc.freeze()
            self._gauges.tell(self.current, self.refused)


def prepare_items(bundle: Bundle, catalogue: Catalogue) -> tuple[PreparedItems, tuple[str, ...]]:
    """The catalogue as a bundle reads it, and what it lacks for that.

    Columns that the catalogue no longer has, and text vectors of another version, count as unknown.
    """
    reduced = []
    unknown: list[Any] = [None] * len(catalogue)
    wanted = [*bundle.spec.item_categorical, *(feature.name for feature in bundle.encoder.item_dense)]
    columns: dict[str, Any] = {"item_id": catalogue.columns["item_id"]}
    for name in wanted:
        columns[name] = catalogue.columns.get(name, unknown)
    if any(name not in catalogue.columns for name in wanted):
        reduced.append("item_features:missing")
    fits = has_text_of(bundle, catalogue)
    if not fits:
        reduced.append("item_text:other_version")
    return bundle.prepare_items(columns, catalogue.text if fits else None), tuple(reduced)


def has_text_of(bundle: Bundle, catalogue: Catalogue) -> bool:
    """Whether the catalogue's text vectors are of the version that the bundle was trained on, if it reads any."""
    read = bundle.spec.vectors.get("item_text")
    return read is None or read.version == catalogue.text_version


def _reduced(known: tuple[str, ...], reader: OnlineReader) -> tuple[str, ...]:
    """What a live model lacks, by what this reader finds of the user's columns."""
    others = tuple(what for what in known if what != MISSING_COLUMN)
    return (*others, MISSING_COLUMN) if reader.missing_columns() else others


def checked_bundle(origin: Origin) -> Bundle:
    """The bundle of an origin, with the digest that its pointer names, after its golden rows were scored again.

    Raises:
        BundleError: it is missing, altered or another one.
    """
    folder = origin.folder
    if not folder.is_dir():
        raise BundleError(f"{folder}: there is no bundle here")
    if origin.digest is not None:
        artifact = read_manifest(folder.parent)
        if artifact.digest != origin.digest:
            raise BundleError(f"{folder}: not the bundle that was promoted; `llm4msr rollback`, or train again")
        # Its manifest holds the digests of the bundle's files, which `load_bundle` checks.
        artifact.check([f"{folder.name}/{MANIFEST}"])
    bundle = models.load_bundle(folder)
    bundle.check_golden()
    return bundle


def _seed() -> Origin | None:
    path = os.environ.get(SEED_VARIABLE) or own_seed()
    return Origin(Path(path), model="seed", version=0) if path else None


def _origin_of(champion: BundlePointer, root: Path) -> Origin:
    return Origin(champion.folder(root), champion.model, champion.version, champion.digest, champion.promoted_at)


def _equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def _versions(bundle: Bundle, catalogue: Catalogue, origin: Origin) -> dict[str, Any]:
    return {
        "model": origin.model,
        "version": origin.version,
        "bundle_digest": bundle.manifest.digest,
        "catalogue_digest": catalogue.digest,
        "knowledge": bundle.spec.versions,
    }
