"""What a serving process holds, and how it changes under load.

`serving/current.json` names the bundle and `serving/catalogue.json` the catalogue. A thread polls both, loads what is
new beside what is live, checks it, and swaps one reference. What fails its check is refused and the old stays.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bento.catalogue import Catalogue, load_catalogue
from core import Clock, Settings, from_micros, logger, make_clock
from core.errors import BundleError, Llm4msrError, MissingArtifactError
from feature_repo import OnlineReader
from models import Bundle, load_bundle

LOG = logger("bento")
SEED_VARIABLE = "LLM4MSR_SEED_BUNDLE"


@dataclass(frozen=True)
class Generation:
    """One consistent set of what answers a request; immutable, replaced as a whole."""

    bundle: Bundle
    catalogue: Catalogue
    reader: OnlineReader
    clock: Clock
    scenario_vectors: dict[str, np.ndarray]
    pointer: dict[str, Any]
    populated: bool

    @property
    def versions(self) -> dict[str, Any]:
        """Model and knowledge versions, as answers report them."""
        return {
            "model": self.pointer.get("model", self.bundle.info.get("name", "seed")),
            "version": int(self.pointer.get("version", 0)),
            "bundle_digest": self.bundle.manifest["digest"],
            "catalogue_digest": self.catalogue.digest,
            "knowledge": {view: body["version"] for view, body in self.bundle.info["vectors"].items()},
        }


class Live:
    """Holds the current `Generation` and keeps it new.

    Args:
        settings: of the project; `root` and `serving` count here.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.current: Generation | None = None
        self.refused: str | None = None
        self._stop = threading.Event()
        self._key: tuple[str, str] | None = None
        self._bad_key: tuple[str, str] | None = None

    def start(self) -> None:
        """Load what is there and poll from then on, in a daemon thread."""
        self.refresh()
        threading.Thread(target=self._poll, name="llm4msr-live", daemon=True).start()

    def stop(self) -> None:
        """End the polling thread."""
        self._stop.set()

    def refresh(self) -> bool:
        """Look at the pointers once; True when a new generation went live."""
        try:
            bundle_pointer = self._pointer("current.json") or _seed()
            catalogue_pointer = self._pointer("catalogue.json")
            if bundle_pointer is None or catalogue_pointer is None:
                raise MissingArtifactError(
                    f"no bundle or no catalogue below {self.settings.root / 'serving'}; run `llm4msr run`"
                )
            key = (json.dumps(bundle_pointer, sort_keys=True), catalogue_pointer["digest"])
            if key in (self._key, self._bad_key):
                return False
            self._bad_key = key
            generation = self._load(bundle_pointer, catalogue_pointer)
        except (Llm4msrError, OSError, ValueError, KeyError) as error:
            if self.refused != str(error):
                LOG.error("refused: %s%s", error, "; the old one stays" if self.current else "")
            self.refused = str(error)
            return False
        self.current, self._key, self._bad_key, self.refused = generation, key, None, None
        LOG.info("live: bundle version %s", generation.versions["version"])
        return True

    def _load(self, bundle_pointer: dict[str, Any], catalogue_pointer: dict[str, Any]) -> Generation:
        old = self.current
        folder = self.settings.root / bundle_pointer["bundle"]
        same_bundle = old is not None and old.pointer.get("bundle") == bundle_pointer["bundle"]
        bundle = old.bundle if same_bundle and old else _checked_bundle(folder)
        same_catalogue = old is not None and old.catalogue.digest == catalogue_pointer["digest"]
        catalogue = (
            old.catalogue
            if same_catalogue and old
            else load_catalogue(self.settings.root / catalogue_pointer["catalogue"])
        )
        clock = make_clock(self.settings, from_micros(catalogue.as_of))
        reader = OnlineReader(self.settings, clock, bundle.info["vectors"])
        names = [s["scenario"] for s in catalogue.scenarios]
        vectors: dict[str, np.ndarray] = {}
        try:
            vectors = {n: v for n, v in reader.read_scenarios(names).items() if v is not None}
            populated = reader.populated(bundle.info["views"])
        except Llm4msrError as error:
            LOG.warning("the online store did not answer: %s", error)
            # Once ready, a process degrades but never becomes unready.
            populated = old is not None and old.populated
            vectors = dict(old.scenario_vectors) if old is not None and same_bundle else {}
        return Generation(bundle, catalogue, reader, clock, vectors, bundle_pointer, populated)

    def _pointer(self, name: str) -> dict[str, Any] | None:
        path = self.settings.root / "serving" / name
        return json.loads(path.read_text()) if path.is_file() else None

    def _poll(self) -> None:
        while not self._stop.wait(self.settings.serving.poll_seconds):
            self.refresh()


def _checked_bundle(folder: Path) -> Bundle:
    if not folder.is_dir():
        raise BundleError(f"{folder}: there is no bundle here")
    bundle = load_bundle(folder)
    bundle.check_golden()
    return bundle


def _seed() -> dict[str, Any] | None:
    path = os.environ.get(SEED_VARIABLE)
    return {"bundle": path, "model": "seed", "version": 0} if path else None
