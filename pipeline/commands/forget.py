"""`llm4msr forget`: remove a person from everything below a root, keep a proof, and drop what comes of them later.

The order is such that a kill anywhere is mended by running it again: first the list that ingest and push read, then a note of
what is under way, then the places one by one, and the proof at the end. Artifacts are rewritten where they lie, so that
serving goes on; each says that it was (`rewritten`), and is built anew when its stage runs next.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from core import ArtifactStore, Manifest, Settings, logger, wall
from core.contracts.contract import Contract
from core.contracts.ingested import Ingested
from core.contracts.kinds import KINDS, kinds_of
from core.contracts.pointers import rename_digests
from core.digest import sha256_file
from core.errors import BundleError, Llm4msrError, SettingsError
from core.files import replace_file, replace_json
from core.forgotten import FOLDER, Forgotten
from core.ids import read_id
from core.segments import row_counts, segments, table_path
from core.training_table import table_of
from core.window import Window
from pipeline.commands.forget_files import (
    KEY,
    blank_matrix_rows,
    is_telling,
    lines_of,
    name_of_table,
    named_in,
    renumber,
    rows_by_file,
    rows_of,
    table_of_file,
    tables_of_users,
    without_matrix_rows,
    without_rows,
)
from pipeline.graph import built_within
from pipeline.run import STAGES

LOG = logger("pipeline")
# Beside the stages; what is built within another comes after it, so that nobody waits for each other.
_OTHERS = ("replay", "compressor", *built_within())
_WHY = "a user was forgotten"


@dataclass
class Found:
    """What there is of some users, or was.

    Attributes:
        places: place to rows, users or answers there.
        left: what this cannot reach, in words.
        named_in: files that still name an id.
    """

    places: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    named_in: list[Path] = field(default_factory=list)

    def add(self, place: str, count: int) -> None:
        """Count something at a place."""
        if count:
            self.places[place] = self.places.get(place, 0) + count


def ids_of(settings: Settings, texts: Iterable[str]) -> list[Any]:
    """Ids as people write them, in the type that the log's have.

    Raises:
        SettingsError: one is no id of this log.
    """
    newest = ArtifactStore(settings.root).all("ingest")
    kind = Ingested.read(newest[-1].path).user_id if newest else "string"
    found: dict[Any, None] = {}
    for text in texts:
        try:
            found[read_id(text, pa.type_for_alias(kind))] = None
        except ValueError as error:
            raise SettingsError(f"{text!r}: {error}") from error
    return list(found)


def look(settings: Settings, users: Sequence[Any]) -> Found:
    """What there is of users below the root, and in its online store; nothing is changed."""
    return _Forgetting(settings, users, act=False).places()


def forget(settings: Settings, users: Sequence[Any]) -> tuple[Found, Path]:
    """Remove users from everything below the root and from its online store.

    Waits for stages that are running. What a killed call left undone is done too, whoever it was about.

    Returns:
        What was there, and the proof's file.

    Raises:
        StorageError: a store cannot be reached; run it again.
    """
    store = ArtifactStore(settings.root)
    from feature_repo import pushing

    with ExitStack() as turns:
        for stage in [*STAGES, *_OTHERS]:
            turns.enter_context(store.turn(stage))
        turns.enter_context(pushing(settings.root))
        now = wall().now()
        listed = Forgotten(settings.root)
        work = _Forgetting(settings, users, act=True)
        if work.pending:
            work.users = list(dict.fromkeys([*users, *_of_the_list(settings, listed)]))
        listed.add(work.users, now.isoformat())
        work.note()
        found = work.places()
        remaining = _Forgetting(settings, work.users, act=False).places().places
        if remaining:
            raise Llm4msrError(f"not all could be removed: {remaining}; run it again")
        found.named_in = named_in(_files(settings.root), work.users)
        proof = settings.root / FOLDER / "proofs" / f"{now.strftime('%Y%m%dT%H%M%S%fZ')}.json"
        replace_json(
            proof,
            {
                "time": now.isoformat(),
                "project": settings.project,
                "sha256_with_salt": sorted(listed.hash_of(user) for user in work.users),
                "removed": found.places,
                "cannot_reach": found.left,
                "still_named_in": [str(path.relative_to(settings.root)) for path in found.named_in],
                "short_ids_not_looked_for_in_text": sum(not is_telling(user) for user in work.users),
            },
        )
        work.pending_file.unlink()
    return found, proof


def is_pending(settings: Settings) -> bool:
    """Whether a call was cut short."""
    return _pending_file(settings.root).is_file()


class Pending(Contract):
    """What a call keeps until it has ended, so that another goes on where it was cut short.

    Attributes:
        digests: of rewritten artifacts, old to new.
    """

    REMAKE: ClassVar[str] = "delete it and run `llm4msr forget` again"

    digests: Mapping[str, str] = Field(default_factory=dict)


class _Forgetting:
    """The places of a root, one after another; with `act` they are changed, else only counted."""

    def __init__(self, settings: Settings, users: Sequence[Any], *, act: bool) -> None:
        self.settings, self.root, self.users, self.act = settings, settings.root, list(users), act
        self.store = ArtifactStore(self.root)
        self.found = Found()
        self.pending_file = _pending_file(self.root)
        self.pending = act and self.pending_file.is_file()
        self.digests = dict(Pending.read_file(self.pending_file).digests) if self.pending else {}

    def note(self) -> None:
        """Keep which digests artifacts had, before they have others."""
        replace_json(self.pending_file, Pending(digests=self.digests).as_json())

    def places(self) -> Found:
        """Go through all of them."""
        self._online()
        self._pushed()
        self._caches()
        self._artifacts()
        self._feast()
        self._tracking()
        if self.act:
            shutil.rmtree(self.root / "tmp", ignore_errors=True)
            self._pointers()
        self._say_what_is_left()
        return self.found

    def _online(self) -> None:
        from feature_repo import erase_online

        # An id of digits may have been online as text, before the ids' type was set.
        every = [*self.users, *(str(user) for user in self.users if not isinstance(user, str))]
        for begin in range(0, len(every), 1000):
            part = every[begin : begin + 1000]
            self.found.add("online store", erase_online(self.settings, part, count_only=not self.act))

    def _pushed(self) -> None:
        from ingest import PushedLog

        log = PushedLog(self.root)
        held = self._pushed_digests(log) if self.act else []
        self.found.add("pushed rows", log.erase(self.users, count_only=not self.act))
        for manifest, window in held:
            digest = log.digest(window)
            own = {key: value for key, value in manifest.inputs.items() if key != "pushed"}
            self.store.change_inputs(manifest, own | ({"pushed": digest} if digest else {}))
        for file in sorted((self.root / "live").glob("*.jsonl")):
            kept, count = lines_of(file, self.users)
            self.found.add("rejected lines", count)
            if self.act and count:
                text = "".join(kept)
                replace_file(file, lambda path, text=text: path.write_text(text, "utf-8", "surrogateescape"))  # type: ignore[misc]

    def _pushed_digests(self, log: Any) -> list[tuple[Manifest, Window]]:
        """Manifests of ingest whose window holds the rows that are pushed now: not late, only fewer."""
        found = []
        for manifest in self.store.all("ingest"):
            window = Window.parse(manifest.window["start"], manifest.window["end"])
            if "pushed" in manifest.inputs and manifest.inputs["pushed"] == log.digest(window):
                found.append((manifest, window))
        return found

    def _caches(self) -> None:
        from knowledge import forget_in_cache

        cache = self.root / "cache"
        prompts: set[str] = set()
        prompted = [kind.view for kind in KINDS if kind.prompted]
        indexes = [table_path(m.path / view, "index") for m in self.store.find("knowledge") for view in prompted]
        for file in (file for index in indexes if index.exists() for file in segments(index)):
            table = pq.read_table(file, columns=["prompt_sha256"])
            prompts.update(table["prompt_sha256"].take(pa.array(rows_of(file, self.users))).to_pylist())
        for place, count in forget_in_cache(cache, self.users, prompts, act=self.act).items():
            self.found.add(f"cache: {place}", count)
        # The push path's copy of the log: it may be deleted, and the next push fills it again.
        if self.act:
            for file in (cache / "push").glob("log.db*"):
                file.unlink()

    def _artifacts(self) -> None:
        matrices = self._matrix_rows()
        # Training tables hold copies of matrices whose rows only the knowledge artifacts name: those come last.
        for manifest in sorted(self.store.every(), key=lambda m: m.stage == "knowledge"):
            folder, stage = manifest.path, manifest.stage
            changed: list[str] = self._bundles(folder) if stage == "train" else []
            rows: dict[str, int] = {}
            tables: dict[Path, None] = {}
            if stage in ("dataset", "dataset_champion"):
                changed += self._copies(manifest, matrices)
            if stage == "knowledge":
                changed += self._vectors(folder)
            for file in tables_of_users(folder):
                own = len(rows_of(file, self.users))
                self.found.add(f"artifacts of {stage}", own)
                if own and self.act:
                    without_rows(file, self.users)
                    changed.append(str(file.relative_to(folder)))
                    tables[table_of_file(file)] = None
            for table in tables:
                renumbered = renumber(table, "row") if table.stem == "index" else []
                changed += [str(file.relative_to(folder)) for file in renumbered]
                rows[name_of_table(table)] = sum(row_counts(table))
            if self.act:
                self._drop_pages(folder)
                self._describe(manifest, changed, rows)
        if self.act:
            self._rename_inputs()

    def _matrix_rows(self) -> dict[str, np.ndarray]:
        """Digest of a segment of a user matrix to the users' rows in it."""
        found = {}
        for manifest in self.store.find("knowledge"):
            for index in _user_indexes(manifest.path):
                rows = _rows_of(index, self.users)
                for file, own in rows_by_file(index.with_name("vectors.npy"), rows).items():
                    digest = manifest.files.get(str(file.relative_to(manifest.path)))
                    if len(own) and digest:
                        found[digest] = own
        return found

    def _vectors(self, folder: Path) -> list[str]:
        """Take the users' rows out of the matrices; row i belongs to entry i of the index, which is rewritten last."""
        changed = []
        for index in _user_indexes(folder):
            rows, whole = _rows_of(index, self.users), sum(row_counts(index))
            for name in ("vectors.npy", "digests.npy") if self.act and len(rows) else ():
                files = without_matrix_rows(index.with_name(name), rows, whole)
                changed += [str(file.relative_to(folder)) for file in files]
        return changed

    def _copies(self, manifest: Manifest, matrices: dict[str, np.ndarray]) -> list[str]:
        """Blank the users' rows in a training table's matrices."""
        changed, folder = [], manifest.path
        own = {file: rows_of(file, self.users) for file in segments(table_of(folder))} if self.act else {}
        for view in (kind.view for kind in kinds_of("user")):
            column, matrix = f"{view}_row", folder / "vectors" / f"{view}.npy"
            named = [pq.read_table(file, columns=[column]).column(0).take(pa.array(at)) for file, at in own.items()
                     if len(at) and column in pq.read_schema(file).names]  # fmt: skip
            rows = [part.drop_null().to_numpy() for one in named for part in one.chunks]
            parts = rows_by_file(matrix, np.unique(np.concatenate([np.zeros(0, np.int64), *rows])))
            for file, theirs in parts.items():
                name = str(file.relative_to(folder))
                known = matrices.get(manifest.files.get(name, ""))
                chosen = theirs if known is None else known
                if self.act and len(chosen):
                    blank_matrix_rows(file, chosen)
                    changed.append(name)
        return changed

    def _bundles(self, folder: Path) -> list[str]:
        names = {path.name.removesuffix(".forgetting") for path in folder.glob("bundle_*") if path.is_dir()}
        names = {name for name in names if not name.endswith(".forgotten")}
        return [name for one in sorted(names) for name in self._bundle(folder / one, folder)]

    def _bundle(self, bundle: Path, folder: Path) -> list[str]:
        """Take the users out of a bundle; the files that changed, as the folder's manifest names them."""
        from models import forget_in_bundle, users_in_bundle

        try:
            if not self.act:
                self.found.add("bundles", users_in_bundle(bundle, self.users))
                return []
            count = forget_in_bundle(bundle, self.users)
        except (BundleError, OSError, ValueError, KeyError) as error:
            self.found.left.append(f"the bundle {bundle}, which cannot be read ({error}); delete it or train again")
            return []
        self.found.add("bundles", count)
        return [str(file.relative_to(folder)) for file in bundle.rglob("*") if file.is_file()] if count else []

    def _drop_pages(self, folder: Path) -> None:
        """Pages of Great Expectations show examples of rows; they are for people and can go."""
        for page in named_in((file for file in (folder / "run").rglob("*") if file.is_file()), self.users):
            page.unlink()

    def _describe(self, manifest: Manifest, changed: list[str], rows: dict[str, int]) -> None:
        if self.pending:
            differ = (name for name, digest in manifest.files.items() if _differs(manifest.file(name), digest))
            changed = sorted({*changed, *differ})
        counts = {name: count for name, count in rows.items() if name in manifest.rows}
        rejected = {name.replace("quarantine_", "quarantined_"): n for name, n in rows.items() if "quarantine_" in name}
        counts |= {name: count for name, count in rejected.items() if name in manifest.rows}
        if rejected and "quarantined" in manifest.rows:
            parts = {name: n for name, n in manifest.rows.items() if name.startswith("quarantined_")} | rejected
            counts["quarantined"] = sum(parts.values())
        if changed or counts:
            self.store.rewrite(manifest.path, _WHY, changed, counts, before=self._remember)

    def _remember(self, old: str, new: str) -> None:
        """Noted before the manifest says it: whoever goes on after a kill must know both."""
        self.digests[old] = new
        self.note()

    def _rename_inputs(self) -> None:
        """Artifacts that were made of rewritten ones name their new digests: `prune`, replays and champions ask for them."""
        self.store.follow(lambda digest: _newest(self.digests, digest))

    def _feast(self) -> None:
        for file in tables_of_users(self.root / "feast"):
            if file.name.endswith(".ids.parquet"):
                continue  # who may be online; `erase_online` has seen to it
            count = len(rows_of(file, self.users))
            self.found.add("feature store's files", count)
            if count and self.act:
                without_rows(file, self.users)

    def _tracking(self) -> None:
        for vocabulary in sorted((self.root / "tracking").rglob(f"vocabulary/{KEY}.parquet")):
            bundle = vocabulary.parent.parent
            if not bundle.name.endswith((".forgetting", ".forgotten")):
                self._bundle(bundle, bundle)

    def _pointers(self) -> None:
        rename_digests(self.root, lambda digest: _newest(self.digests, digest))

    def _say_what_is_left(self) -> None:
        left = self.found.left
        left.append(
            f"the source's own files ({self.settings.data.path}): their rows are dropped whenever they are read"
        )
        left.append("what the shared weights of trained models learned of everybody's rows, until the next training")
        left.append("counters and vectors of items and scenarios, sums of everybody's rows, until the next run")
        if self.settings.tracking.url:
            left.append(f"copies of bundles on the MLflow server {self.settings.tracking.url}: delete their runs there")
        left.append("packaged Bentos and images, dead letters that were put elsewhere, logs of other programs, backups")


def _of_the_list(settings: Settings, listed: Forgotten) -> list[Any]:
    """Whoever is on the list should not be found any more: the ids of a call that was cut short."""
    from ingest import PushedLog

    root = settings.root
    found: dict[Any, None] = {}
    columns = [(file, KEY) for file in tables_of_users(root)]
    columns += [(file, "key") for file in sorted(root.rglob(f"vocabulary/{KEY}.parquet"))]
    for file, column in columns:
        for batch in pq.ParquetFile(file).iter_batches(columns=[column]):
            found |= dict.fromkeys(batch.column(0).unique().drop_null().to_pylist())
    found |= dict.fromkeys(PushedLog(root).users())
    return [user for user in found if listed.hash_of(user) in listed.since]


def _pending_file(root: Path) -> Path:
    return root / FOLDER / "pending.json"


def _differs(file: Path, digest: str) -> bool:
    return not file.is_file() or sha256_file(file) != digest


def _newest(digests: dict[str, str], digest: str) -> str:
    seen: set[str] = set()
    while digest in digests and digest not in seen:
        seen.add(digest)
        digest = digests[digest]
    return digest


def _user_indexes(folder: Path) -> list[Path]:
    """The indexes of users' vectors in a knowledge artifact."""
    found = (table_path(folder / kind.view, "index") for kind in kinds_of("user"))
    return [index for index in found if index.exists()]


def _rows_of(table: Path, users: Collection[Any]) -> np.ndarray:
    """Which rows of a table in segments are those of users, int64 [n]."""
    starts = np.cumsum([0, *row_counts(table)])
    return np.concatenate([rows_of(file, users) + start for file, start in zip(segments(table), starts, strict=False)])


def _files(root: Path) -> Iterable[Path]:
    """All files below a root but the proofs."""
    return (p for p in sorted(root.rglob("*")) if p.is_file() and (root / FOLDER) not in p.parents)


def told(found: Found, users: Collection[Any], *, done: bool) -> str:
    """For people."""
    who = f"{len(users):,} user{'s' if len(users) != 1 else ''}"
    lines = [f"{count:>12,}  {place}" for place, count in found.places.items()]
    if not lines:
        lines = [
            f"nothing is known of {who} here; with --yes their rows are dropped whenever they come" if not done else ""
        ]
    left = [f"  - {text}" for text in found.left]
    named = [f"  - {path}" for path in found.named_in]
    return "\n".join(
        [
            *(line for line in lines if line),
            "not reached:" if done else "will not be reached:",
            *left,
            *(["still named in:", *named] if named else []),
        ]
    )
