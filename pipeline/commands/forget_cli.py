"""What `llm4msr forget` reads and says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core import Settings
from core.errors import DataError, SettingsError
from core.forgotten import Forgotten
from pipeline.commands.forget import forget, ids_of, is_pending, look, told


def forget_users(settings: Settings, ids: Sequence[str], file: Path | None, yes: bool) -> str:
    """Count, or remove; what was found, for people.

    Raises:
        SettingsError: nobody is named, or an id is none.
        DataError: the file of ids cannot be read.
    """
    users = _users(settings, ids, file, may_be_none=is_pending(settings))
    if not yes:
        counted = told(look(settings, users), users, done=False)
        cut = "an earlier call was cut short; --yes finishes it, too\n" if is_pending(settings) else ""
        return f"{counted}\n{cut}nothing was changed; add --yes to remove {len(users):,} users"
    found, proof = forget(settings, users)
    return (
        f"{told(found, users, done=True)}\nproof, without ids: {proof}\n"
        "their rows are dropped from now on; what was made of everybody's rows is made anew by the next `llm4msr run`\n"
        "back: `llm4msr forget --lift ID`, and runs of the windows whose source still has the rows"
    )


def lift_users(settings: Settings, ids: Sequence[str], file: Path | None) -> str:
    """Take users off the list of the forgotten; what that means, for people.

    Raises:
        SettingsError: nobody is named, or an id is none.
        DataError: the file of ids cannot be read.
    """
    users = _users(settings, ids, file, may_be_none=False)
    count = Forgotten(settings.root).lift(users)
    return (
        f"{count:,} of {len(users):,} users were on the list and are off it; what was removed is gone, and rows that the "
        "source still has come back with the next run of their windows"
    )


def _users(settings: Settings, ids: Sequence[str], file: Path | None, *, may_be_none: bool) -> list[Any]:
    texts = list(ids)
    if file is not None:
        try:
            texts += [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot be read as a list of ids, one a line ({error})", file=file) from error
    if not texts and not may_be_none:
        raise SettingsError("name a user: `llm4msr forget ID`, or a file of ids, one a line: `--file ids.txt`")
    return ids_of(settings, texts)
