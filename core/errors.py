"""All errors the product raises on purpose. Each message says what happened, where, and what to do.

`UserError` and its kinds mean that input, settings or the environment must change (exit code 2); `EmptyWindowError`
that there was nothing to do (exit code 3); anything else is our own fault (exit code 1).
"""

from __future__ import annotations

from pathlib import Path


class Llm4msrError(Exception):
    """Base of every deliberate error."""

    exit_code = 1


class UserError(Llm4msrError):
    """Something the user can mend."""

    exit_code = 2


class SettingsError(UserError):
    """A settings file or an environment variable is wrong."""


class DataError(UserError):
    """Input data is unusable; the message names the file, and the row and column where they are known."""

    def __init__(
        self,
        message: str,
        *,
        file: str | Path | None = None,
        row: int | None = None,
        column: str | None = None,
    ) -> None:
        place = [
            f"file {file}" if file is not None else "",
            f"row {row}" if row is not None else "",
            f"column {column!r}" if column is not None else "",
        ]
        where = ", ".join(part for part in place if part)
        super().__init__(f"{where}: {message}" if where else message)
        self.file, self.row, self.column = file, row, column


class GateError(UserError):
    """A data-quality gate stopped the run: a whole table is at fault, not single rows."""


class EmptyWindowError(Llm4msrError):
    """A window holds no rows and is skipped: nothing is wrong, and nothing was done (exit code 3)."""

    exit_code = 3


class MissingArtifactError(UserError):
    """A stage was asked for before the stage it reads from has been run."""


class BudgetError(UserError):
    """A run stopped cleanly because it would have used more than it was given."""


class StorageError(UserError):
    """The disk is full, or a store cannot be reached or written."""


class ProtocolError(UserError):
    """An evaluation protocol was asked for where it is not allowed."""


class BundleError(Llm4msrError):
    """A bundle is incomplete, altered, or does not reproduce its golden rows."""


class CorruptArtifactError(Llm4msrError):
    """A published artifact no longer has the bytes its manifest promises."""
