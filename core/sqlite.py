"""SQLite files that several processes of one machine share."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import StorageError


@contextmanager
def transaction(file: Path, script: str, mend: str = "") -> Iterator[sqlite3.Connection]:
    """A connection whose changes are kept if the block ends well; closed in any case.

    Args:
        file: made when missing, with its folder.
        script: run first, e.g. CREATE TABLE IF NOT EXISTS.
        mend: what to do about a file that cannot be used, at the end of the message.

    Raises:
        StorageError: it cannot be read or written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(file, timeout=30)
        try:
            connection.executescript(script)
            with connection:
                yield connection
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as error:
        raise StorageError(f"{file} cannot be used ({error}){mend}") from error
