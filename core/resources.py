"""How much a process may hold at once; what is opened in it asks here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

DEFAULT_MEMORY = 2_000_000_000
_memory = DEFAULT_MEMORY


@contextmanager
def memory_limit(limit: int) -> Iterator[None]:
    """What this process opens meanwhile holds at most so many bytes (settings: `resources.memory`)."""
    global _memory
    before, _memory = _memory, limit
    try:
        yield
    finally:
        _memory = before


def memory() -> int:
    """Bytes that databases and tables of this process may hold now."""
    return _memory
