"""Whom this root has forgotten: hashes of ids, never the ids.

    root/forgotten/list.json           salt, hash -> since when, and how often somebody was taken off the list
    root/forgotten/proofs/TIME.json    what was done, where, for which hashes

A hash is SHA-256 over the root's own salt and the id's text. Whoever holds the list and guesses an id can check the guess:
it is a pseudonym, and no more than that is needed to drop a person's rows whenever they come again.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from core.digest import sha256_json
from core.files import replace_json

FOLDER = "forgotten"


class Forgotten:
    """The list of a root.

    Attributes:
        since: hash to the time it was put on the list, ISO 8601.
        lifted: how often ids were taken off it.
    """

    def __init__(self, root: Path) -> None:
        self._file = root / FOLDER / "list.json"
        body: dict[str, Any] = json.loads(self._file.read_text()) if self._file.is_file() else {}
        self._salt: str = body.get("salt") or secrets.token_hex(32)
        self.since: dict[str, str] = body.get("since", {})
        self.lifted: int = body.get("lifted", 0)

    def __bool__(self) -> bool:
        return bool(self.since)

    @property
    def digest(self) -> str | None:
        """What ingest's output depends on; None where nobody was ever forgotten."""
        if not self.since and not self.lifted:
            return None
        return sha256_json({"hashes": sorted(self.since), "lifted": self.lifted})

    def hash_of(self, user: Any) -> str:
        """The hash of an id; 7 and `7` have the same."""
        return hashlib.sha256(f"{self._salt}\0{user}".encode()).hexdigest()

    def add(self, users: Iterable[Any], now: str) -> None:
        """Put ids on the list."""
        self.since = {**{self.hash_of(user): now for user in users}, **self.since}
        self._write()

    def lift(self, users: Iterable[Any]) -> int:
        """Take ids off the list; returns how many were on it."""
        found = {self.hash_of(user) for user in users} & self.since.keys()
        self.since = {key: value for key, value in self.since.items() if key not in found}
        # Never again the digest of before: artifacts of that name lack the rows that may come again.
        self.lifted += 1
        self._write()
        return len(found)

    def keep(self, ids: pa.Array | pa.ChunkedArray) -> pa.Array:
        """Which rows stay, bool [n]: those of users who are not on the list; a missing id stays."""
        hidden = [user for user in pc.unique(ids).drop_null().to_pylist() if self.hash_of(user) in self.since]
        found = pc.invert(pc.is_in(ids, value_set=pa.array(hidden, ids.type)))
        return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found

    def _write(self) -> None:
        replace_json(self._file, {"salt": self._salt, "since": self.since, "lifted": self.lifted})


def belongs(ids: pa.Array | pa.ChunkedArray, users: Collection[Any]) -> pa.Array:
    """Which of some ids are those of these users, however either is typed: bool [n], false where there is no id."""
    texts = ids.cast(pa.string()) if not pa.types.is_dictionary(ids.type) else ids.cast(ids.type.value_type)
    found = pc.is_in(texts.cast(pa.string()), value_set=pa.array([str(user) for user in users], pa.string()))
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
