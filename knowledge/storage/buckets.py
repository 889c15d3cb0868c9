"""Buckets of users: ranges of a hash of the user id, so that a user stays in the same range whoever else there is.

What belongs to a bucket is worked on at once and held in memory; everything else streams. The number of buckets is a
power of two that follows the rows, so that a bucket has about as many rows in a small log as in a large one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

HASH_BITS = 32
BUCKET_ROWS = 131_072


@dataclass(frozen=True, order=True)
class Bucket:
    """The `number`-th of `of` equal ranges of the hash, counted from 0."""

    of: int
    number: int

    @property
    def low(self) -> int:
        """Smallest hash in it."""
        return self.number * ((1 << HASH_BITS) // self.of)

    @property
    def high(self) -> int:
        """Largest hash in it."""
        return (self.number + 1) * ((1 << HASH_BITS) // self.of) - 1

    @property
    def name(self) -> str:
        """As files are called."""
        return f"{self.of}-{self.number}"

    def overlaps(self, other: Bucket) -> bool:
        """Whether a hash can be in both."""
        return self.low <= other.high and other.low <= self.high


def buckets_for(rows: int) -> list[Bucket]:
    """As many buckets as so many rows need, in order of the hash."""
    count = 1
    while count * BUCKET_ROWS < rows and count < 1 << 16:
        count *= 2
    return [Bucket(count, number) for number in range(count)]


def named(names: Iterable[str]) -> list[Bucket]:
    """The buckets among file names (without their ending), in order."""
    found = [re.fullmatch(r"(\d+)-(\d+)", name) for name in names]
    return sorted(Bucket(int(match.group(1)), int(match.group(2))) for match in found if match)


def share_of(buckets: list[Bucket], part: tuple[int, int] | None) -> list[tuple[Bucket, tuple[int, int] | None]]:
    """The buckets that part i of n works on, and which of the bucket's own parts it is.

    Args:
        buckets: all of them.
        part: (i, n) counted from 1; None: everything.

    Returns:
        Bucket and (rank, count) within it, None where the bucket is the part's alone. With more parts than buckets,
        several parts share one.
    """
    if part is None:
        return [(bucket, None) for bucket in buckets]
    number, parts = part
    if parts <= len(buckets):
        return [(bucket, None) for bucket in buckets[number - 1 :: parts]]
    place = (number - 1) % len(buckets)
    count = len(range(place, parts, len(buckets)))
    return [(buckets[place], ((number - 1) // len(buckets) + 1, count))]
