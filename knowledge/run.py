"""A run of knowledge: what it reads and where it keeps things, and all that can be asked of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from core import ArtifactStore, Built, Clock
from core.digest import sha256_json
from core.errors import SettingsError
from core.files import replace_json
from core.manifest import data_digest
from core.settings import DataSettings, KnowledgeSettings
from core.source import code_version
from knowledge import parts
from knowledge.build import build
from knowledge.engines import read_everything
from knowledge.kinds.scenarios import moments_of
from knowledge.kinds.shuffled import shuffled_titles
from knowledge.log.catalogue import (
    Scenarios,
    catalogue_of,
    category_column,
    id_types_of,
    read_catalogue,
    read_items_of,
)
from knowledge.log.store import open_log
from knowledge.open_run import OpenLog, OpenRun
from knowledge.plan import Texts
from knowledge.reasoners import make_generator, make_reasoner, per_process
from knowledge.storage.earlier import Earlier, MadeOf


@dataclass(frozen=True)
class Run:
    """Knowledge of some windows, as of a moment. Holds nothing that is open: it may be sent to another process.

    Args:
        sources: folders of validated tables, in order of their windows.
        settings: which reasoner, kinds of user vectors, thresholds and the like.
        data: which columns are an item's text and categories.
        clock: rows at or after its now are not read.
        train_start: microseconds; compressors see rows before it only.
        cache: reasoner outputs by prompt hash, the log in order of users, users' tables; outlives artifacts.
        compressors: keeps fitted compressors, so that later windows use the same.
        window_ends: microseconds; a scenario vector is also made at each that lies after `train_start`.
        earlier: the artifact of the window before, whose vectors are linked as far as they are the same.

    Example:
        >>> run = Run([clean.path], settings.knowledge, settings.data, clock, start, root / "cache", store)
        >>> run.build(out).versions
    """

    sources: Sequence[Path]
    settings: KnowledgeSettings
    data: DataSettings
    clock: Clock
    train_start: int
    cache: Path
    compressors: ArtifactStore
    window_ends: Sequence[int] = ()
    earlier: Path | None = None

    def build(self, out: Path) -> Built:
        """Build every kind of knowledge that the settings ask for.

        Args:
            out: where to write; see `docs/rooms/knowledge.md` for the files.

        Returns:
            Rows per folder and the version per kind.

        Raises:
            UserError: input or settings must change; the message says how.
        """
        parts.warn_of_missing(self.marks)
        with read_everything(self).open() as opened:
            return build(opened, out)

    def read_part(self, number: int, of: int) -> Path:
        """Let the reasoner read every n-th shard of the texts; `build` then finds them in the cache.

        Parts need no order and know nothing of each other: they may run at the same time, on machines that share the cache.

        Args:
            number: of the part, from 1.
            of: how many parts there are.

        Returns:
            The part's done-mark, a JSON file.

        Raises:
            SettingsError: there is no such part.
        """
        if not 1 <= number <= of:
            raise SettingsError(f"--shard {number}/{of}: count from 1 to {of}")
        with self.for_one_of(of).open() as opened:
            read = parts.read_share(opened, (number, of))
            told = {"part": number, "parts": of, "texts_of_the_part": read, "reasoner": opened.reasoner.identity}
        mark = self.marks / f"{number}-of-{of}.json"
        replace_json(mark, told)
        return mark

    def user_prompt(self, user_id: int | str) -> tuple[str | None, int]:
        """The prompt of a user's newest due snapshot, None for a user without one; and how many rows the user has."""
        with self.open() as opened:
            return parts.user_prompt(opened, user_id)

    def scenario_prompt(self, name: str) -> Mapping[str, str]:
        """A scenario's prompt at the start of training, and what the prompts of all scenarios leave out, in words.

        Raises:
            SettingsError: there is no such scenario.
        """
        with self.open() as opened:
            return parts.scenario_prompt(opened, name)

    def workload(self) -> tuple[list[Texts], list[str]]:
        """What `build` would have to read, from samples of up to 256 texts of each kind.

        Returns:
            Counts, token counts and the share that the cache lacks, per kind; and the sampled user prompts, or item texts
            where no prompts are read, to measure with.
        """
        with self.open() as opened:
            return parts.workload(opened)

    def shuffled_titles(self, artifact: Path, groups: pa.Table, seed: int) -> dict[str, np.ndarray]:
        """A placebo: the vectors that `build` would have made, had every item the title of another; see `kinds.shuffled`."""
        with self.open_log() as opened:
            return shuffled_titles(opened, artifact, groups, seed)

    @property
    def marks(self) -> Path:
        """The folder of the done-marks of the run's parts, I-of-N.json."""
        # Where a server is does not say what a part has read, and may hold a password.
        settings = self.settings.model_dump(mode="json", exclude={"base_url": True, "generate": {"base_url": True}})
        return (
            self.cache / "done" / sha256_json({"sources": [str(s) for s in self.sources], "knowledge": settings})[:16]
        )

    def for_one_of(self, processes: int) -> Run:
        """The run as one of several processes sees it that share the budget and the rates of a server."""
        return replace(self, settings=per_process(self.settings, processes))

    @contextmanager
    def open(self) -> Iterator[OpenRun]:
        """Read the catalogue, put new parts of the log in order, and load the reasoner."""
        with self.open_log() as known:
            reasoner = make_reasoner(self.settings)
            yield OpenRun(
                **vars(known),
                moments=moments_of(self.train_start, self.window_ends),
                cache=self.cache,
                compressors=self.compressors,
                reasoner=reasoner,
                generator=make_generator(self.settings, reasoner),
            )

    @contextmanager
    def open_log(self) -> Iterator[OpenLog]:
        """The same without a reasoner."""
        earlier, tables = Earlier.at(self.earlier), [_digest(source) for source in self.sources]
        items, scenarios, recipe = self._catalogue(earlier, tables)
        catalogue = catalogue_of(items, scenarios)
        with open_log(self.sources, self.cache, catalogue, self.clock.now_micros()) as log:
            names = log.names
            made_of = MadeOf(users="", items=recipe, sources=tables, ordered=names, scenarios=catalogue.scenarios)
            yield OpenLog(self.settings, self.data, self.train_start, catalogue, log, made_of, items, earlier)

    def _catalogue(self, earlier: Earlier | None, tables: Sequence[str]) -> tuple[pa.Table, Scenarios, str]:
        """Items and scenarios, and the recipe of the items; only windows that the artifact before lacks are read where it has
        the others.
        """
        taken = earlier.taken(tables) if earlier is not None else None
        new = self.sources[taken or 0 :]
        if earlier is not None and taken is not None:
            before, then = read_items_of(earlier.folder), earlier.made_of
            if (not new or self._items_recipe(new) == then.items) and id_types_of(new) <= {before["item_id"].type}:
                return *read_catalogue(new, self.data, (before, then.scenarios)), then.items
        return *read_catalogue(self.sources, self.data), self._items_recipe(self.sources)

    def _items_recipe(self, sources: Sequence[Path]) -> str:
        """A hash of what shapes the catalogue's rows of some windows."""
        column = category_column(sources, self.data)
        shapes = [self.data.item_text, self.data.text_length, column, code_version(("core", "knowledge"))]
        return sha256_json({"items": shapes})


def _digest(source: Path) -> str:
    """Of the tables of a source."""
    names = ("interactions", "items", "scenarios")
    found = {name: data_digest(source, f"{name}.parquet") for name in names if (source / f"{name}.parquet").is_file()}
    return sha256_json(found)
