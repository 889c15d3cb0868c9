"""A knowledge matrix on disk: the table `index` says which row of the matrix `vectors` belongs to whom and when.

`digests` binds each vector to its owner, so that swapped vectors are noticed: float32 [n, d] and uint8 [n, 32]. All three lie
in segments (`core.segments`, `core.matrix`) of the same rows, in order of (watermark, id).
"""

from __future__ import annotations

import datetime as dt
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.digest import vector_digests
from core.errors import MissingArtifactError
from core.log import logger
from core.matrix import MatrixWriter, open_matrix
from core.matrix import Rows as Matrices
from core.segments import TableWriter, segments, table_path
from core.tables import TIMESTAMP, conform, knowledge_schema, knowledge_text_schema

LOG = logger("knowledge")
# Bytes of a digest.
DIGEST = 32


@dataclass(frozen=True)
class Rows:
    """The keys of a matrix or of texts, one entry a row.

    Attributes:
        key: `user_id`, `item_id` or `scenario`.
        ids: Arrow array [n].
        watermarks: int64 [n], microseconds.
        lag: microseconds from watermark to readable.
    """

    key: str
    ids: pa.Array
    watermarks: np.ndarray
    lag: int = 0

    def take(self, order: np.ndarray) -> Rows:
        """The rows in another order, or some of them."""
        return Rows(self.key, self.ids.take(pa.array(order)), self.watermarks[order], self.lag)

    def columns(self) -> dict[str, pa.Array]:
        """Key, event_timestamp, watermark and created_timestamp (a backfill publishes at its event time)."""
        event = pa.array(self.watermarks + self.lag).cast(TIMESTAMP)
        watermark = pa.array(self.watermarks).cast(TIMESTAMP)
        return {self.key: self.ids, "event_timestamp": event, "watermark": watermark, "created_timestamp": event}


class IndexedMatrix:
    """Writes a kind: `index`, `vectors` and `digests`, in segments of the same rows. Use it as a context.

    What it has in common with the earlier one from the first row on is linked: a digest binds id, version, prompt and vector,
    so rows are the same whose digests and watermarks are.

    Args:
        folder: where to.
        key: `user_id`, `item_id` or `scenario`, and its type.
        kind, version: as the index names them.
        lag: microseconds from watermark to readable.
        dim: of the vectors.
        earlier: the same folder of the artifact before; None: there is none.
    """

    def __init__(
        self,
        folder: Path,
        key: tuple[str, pa.DataType],
        kind: str,
        version: str,
        lag: int,
        dim: int,
        earlier: Path | None = None,
    ) -> None:
        self._key, self._kind, self._version, self._lag = key[0], kind, version, lag
        folder.mkdir(parents=True, exist_ok=True)
        self._known = known = Known.of(earlier, key, (kind, version, lag, dim))
        old = known.folder if known else None
        self._index = TableWriter(folder, "index", knowledge_schema(*key), old and table_path(old, "index"))
        files = [folder / name for name in ("vectors.npy", "digests.npy")]
        before = [old and old / file.name for file in files]
        self._vectors = MatrixWriter(files[0], dim, np.float32, before[0], compare=False)
        self._digests = MatrixWriter(files[1], DIGEST, np.uint8, before[1], compare=False)
        self._same, self._count = known is not None, 0

    @property
    def known(self) -> Known | None:
        """What the earlier artifact has of the kind in the same version."""
        return self._known

    def __enter__(self) -> IndexedMatrix:
        with ExitStack() as stack:
            for part in (self._index, self._vectors, self._digests):
                stack.enter_context(part)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)

    def __len__(self) -> int:
        return self._count

    def take(self, rows: int) -> None:
        """The next so many rows are those of the earlier one."""
        for part in (self._index, self._vectors, self._digests):
            part.take(rows)
        self._count += rows

    def write(self, rows: Rows, hashes: pa.Array, vectors: np.ndarray, digests: np.ndarray | None = None) -> None:
        """The next rows.

        Args:
            rows: whose they are, n.
            hashes: SHA-256 of what each was made from, hex, n.
            vectors: float32 [n, d].
            digests: uint8 [n, 32]; None: they are made.
        """
        if digests is None:
            digests = vector_digests(rows.ids.to_pylist(), self._version, hashes.to_pylist(), vectors)
        same = self._known.same(self._count, rows.watermarks, digests) if self._same and self._known else 0
        self._same = self._same and same == len(digests)
        if same:
            self.take(same)
        if same < len(digests):
            rest = Rows(rows.key, rows.ids.slice(same), rows.watermarks[same:], rows.lag)
            self._index.write(index_table(rest, self._kind, self._version, hashes.slice(same), self._count))
            self._vectors.write(vectors[same:])
            self._digests.write(digests[same:])
            self._count += len(digests) - same


@dataclass(frozen=True)
class Known:
    """A kind of an earlier artifact, of the version that is wanted now.

    Attributes:
        folder: index, vectors and digests.
        watermarks: int64 [n], microseconds.
        vectors, digests: [n, d] and [n, 32].
    """

    folder: Path
    watermarks: np.ndarray
    vectors: Matrices
    digests: Matrices

    @property
    def index(self) -> Path:
        """The table of whose the vectors are."""
        return table_path(self.folder, "index")

    @classmethod
    def of(cls, folder: Path | None, key: tuple[str, pa.DataType], wanted: tuple[str, str, int, int]) -> Known | None:
        """What a folder has of a kind, version, lag and width; None where it has other ones, or cannot be read."""
        if folder is None:
            return None
        try:
            files = segments(table_path(folder, "index"))
            found = cls(
                folder, _watermarks(files), open_matrix(folder / "vectors.npy"), open_matrix(folder / "digests.npy")
            )
            alike = all(_is_of(file, knowledge_schema(*key), wanted[:3]) for file in files)
        except MissingArtifactError:
            return None  # it has no such kind
        except (ValueError, OSError) as error:
            LOG.warning("%s cannot be read (%s); it is made anew", folder, error)
            return None
        whole = len(found.vectors) == len(found.digests) == len(found.watermarks)
        return found if alike and whole and found.vectors.shape[1] == wanted[3] else None

    def same(self, begin: int, watermarks: np.ndarray, digests: np.ndarray) -> int:
        """How many of the rows to write are those from `begin` on."""
        end = min(len(self.watermarks), begin + len(digests))
        many = max(0, end - begin)
        equal = np.asarray(self.digests[begin:end] == digests[:many]).all(axis=1)
        equal &= self.watermarks[begin:end] == watermarks[:many]
        return many if equal.all() else int(np.argmin(equal))


def _watermarks(files: list[Path]) -> np.ndarray:
    return np.concatenate([pq.read_table(file, columns=["watermark"])["watermark"].cast(pa.int64()) for file in files])


def _is_of(file: Path, schema: pa.Schema, wanted: tuple[str, str, int]) -> bool:
    """Whether all rows of a segment are of a kind, version and lag: every row of a segment has the same ones."""
    known = pq.ParquetFile(file)
    if known.schema_arrow != schema:
        return False
    for batch in known.iter_batches(1, columns=["kind", "version", "watermark", "event_timestamp"]):
        [row] = batch.to_pylist()
        lag = (row["event_timestamp"] - row["watermark"]) // dt.timedelta(microseconds=1)
        return (row["kind"], row["version"], lag) == wanted
    return True


def index_table(rows: Rows, kind: str, version: str, hashes: pa.Array, first: int = 0) -> pa.Table:
    """The index of the matrix rows from `first` on."""
    count = len(rows.watermarks)
    table = pa.table(
        {
            **rows.columns(),
            "kind": pa.repeat(kind, count),
            "version": pa.repeat(version, count),
            "prompt_sha256": hashes,
            "row": pa.array(np.arange(first, first + count)),
        }
    )
    return conform(table, knowledge_schema(rows.key, rows.ids.type), f"{kind} knowledge")


def write_text(path: Path, rows: Rows, texts: pa.Array, versions: pa.Array, sources: pa.Array) -> None:
    """Write text for people; each with the version that made it and its source, `generated` or `summary`."""
    pq.write_table(text_table(rows, texts, versions, sources), path, compression="zstd")


def text_table(rows: Rows, texts: pa.Array, versions: pa.Array, sources: pa.Array) -> pa.Table:
    """Texts for people, one per row."""
    columns = {**rows.columns(), "text": texts, "text_source": sources, "version": versions}
    return conform(pa.table(columns), knowledge_text_schema(rows.key, rows.ids.type), "knowledge text")
