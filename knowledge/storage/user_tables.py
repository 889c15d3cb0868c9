"""What was made for the users of a bucket, kept between runs: a refresh makes only users whose rows changed.

    CACHE/users/RECIPE/BUCKET             one file: a line of JSON, then Arrow tables
    CACHE/users/items/CATALOGUE.parquet   a digest per item of the catalogue that users were made with

A file is written beside its place and renamed over it: it is whole, old or absent, whoever is killed and however many
jobs write. Its checksum is compared when it is read; a damaged file is made again. All of it can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.digest import canonical_json, sha256_text
from core.files import replace_file
from core.log import logger
from knowledge.storage.buckets import Bucket, named

LOG = logger("knowledge")
# Tables of a bucket. All have `user_id`; `users` has each user's `key` beside it.
Tables = Mapping[str, pa.Table]


@dataclass(frozen=True)
class Kept:
    """The tables of a bucket and the catalogue they were made with."""

    catalogue: str
    tables: Tables

    def of(self, users: pa.Array) -> Tables:
        """The rows of some users."""
        return {name: table.filter(pc.is_in(table["user_id"], value_set=users)) for name, table in self.tables.items()}


class UserTables:
    """The buckets of one recipe.

    Args:
        cache: the cache's root.
        recipe: hash of all that shapes a user's vectors and text beside the user's rows and the items.
    """

    def __init__(self, cache: Path, recipe: str) -> None:
        self._folder, self._items = cache / "users" / recipe, cache / "users" / "items"

    def load(self, bucket: Bucket) -> list[Kept]:
        """What is kept of the bucket's users: its own file, or those of buckets of another size that overlap it."""
        found = named(path.name for path in self._folder.iterdir()) if self._folder.is_dir() else []
        wanted = [bucket] if bucket in found else [other for other in found if other.overlaps(bucket)]
        return [kept for other in wanted if (kept := self._read(self._folder / other.name)) is not None]

    def save(self, bucket: Bucket, catalogue: str, tables: Tables) -> None:
        """Keep the bucket's tables in place of what was there."""
        bodies = {name: _bytes(table) for name, table in tables.items()}
        head: dict[str, Any] = {"catalogue": catalogue, "tables": {name: len(body) for name, body in bodies.items()}}
        head["sha256"] = _checksum(head, *bodies.values())
        _replace(self._folder / bucket.name, [json.dumps(head).encode() + b"\n", *bodies.values()])

    def tidy(self, buckets: list[Bucket]) -> None:
        """Remove files of buckets of another size."""
        for bucket in named(path.name for path in self._folder.iterdir()) if self._folder.is_dir() else ():
            if bucket not in buckets:
                (self._folder / bucket.name).unlink(missing_ok=True)

    def keep_items(self, items: pa.Table) -> str:
        """Keep the digests of a catalogue's items (item_id, digest); returns the catalogue's name."""
        sink = pa.BufferOutputStream()
        pq.write_table(items, sink, compression="zstd")
        body = sink.getvalue().to_pybytes()
        name = hashlib.sha256(body).hexdigest()[:24]
        path = self._items / name
        if not path.is_file() or path.read_bytes() != body:
            _replace(path, [body])
        return name

    def changed_items(self, catalogue: str, items: pa.Table) -> pa.Array | None:
        """The items that are new, gone or different since a kept catalogue; None where it cannot be read."""
        path = self._items / catalogue
        try:
            body = path.read_bytes()
            if hashlib.sha256(body).hexdigest()[:24] != catalogue:
                raise ValueError("checksum differs")
            old = pq.read_table(pa.BufferReader(body))
        except (OSError, ValueError) as error:
            LOG.warning("%s cannot be read (%s); all users are made again", path, error)
            path.unlink(missing_ok=True)
            return None
        both = old.join(items, "item_id", join_type="full outer", right_suffix="_now")
        same = pc.fill_null(pc.equal(both["digest"], both["digest_now"]), False)
        return both["item_id"].filter(pc.invert(same)).combine_chunks()

    def _read(self, path: Path) -> Kept | None:
        try:
            with path.open("rb") as stream:
                head, body = json.loads(stream.readline()), stream.read()
            if head.pop("sha256") != _checksum(head, body):
                raise ValueError("checksum differs")
            tables, start = {}, 0
            for name, length in head["tables"].items():
                with pa.ipc.open_stream(pa.py_buffer(body).slice(start, length)) as reader:
                    tables[name] = reader.read_all()
                start += length
            return Kept(head["catalogue"], tables)
        except FileNotFoundError:
            return None  # another process was first
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            LOG.warning("kept users %s are damaged (%s); they are made again", path, error)
            path.unlink(missing_ok=True)
            return None


def item_digests(ids: pa.Array, told: list[str], vectors: list[bytes]) -> pa.Table:
    """A digest per item of what is told of it and of its vector's bytes."""
    digests = [
        hashlib.blake2b(f"{text}\0".encode() + vector, digest_size=8).digest()
        for text, vector in zip(told, vectors, strict=True)
    ]
    return pa.table({"item_id": ids, "digest": pa.array(digests, pa.binary(8))})


def user_keys(keys: pa.Array, prompted: pa.Array) -> pa.Array:
    """A user's key: the rows' and whether there are prompts for the user."""
    return pc.binary_join_element_wise(keys, pc.if_else(prompted, "+", "-"), "")


def recipe_name(recipe: str) -> str:
    """A folder's name for a recipe."""
    return sha256_text(recipe)[:16]


def _checksum(head: Mapping[str, Any], *bodies: bytes) -> str:
    """Of a file's tables and of what its first line says of them."""
    digest = hashlib.sha256(canonical_json(head).encode())
    for body in bodies:
        digest.update(body)
    return digest.hexdigest()


def _bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue().to_pybytes()


def _replace(path: Path, bodies: list[bytes]) -> None:
    def write(scratch: Path) -> None:
        with scratch.open("wb") as stream:
            stream.writelines(bodies)
            stream.flush()
            os.fsync(stream.fileno())

    replace_file(path, write)
