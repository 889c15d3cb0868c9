"""Words for people: what a misspelt name may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[str], least: float = 0.6) -> str:
    """`; did you mean 'project'?`, or nothing where no known name is near.

    Args:
        name: what was given.
        known: what there is.
        least: how much of the two must be alike, 0 to 1.
    """
    lowered = {str(one).lower(): str(one) for one in known}
    found = difflib.get_close_matches(str(name).lower(), lowered, n=1, cutoff=least)
    return f"; did you mean {lowered[found[0]]!r}?" if found else ""
