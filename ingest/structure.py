"""The structure of a delimited file under one reading of it: every line is held to be a row, or a part of one.

One pass with numpy over blocks of the file. Within quotes is what an odd number of quotes precedes; where that does not
hold (a quote within unquoted text, `5" screen`) the block is read again by the standard library's strict reader.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import DataError
from ingest.stream import utf8_blocks, wrong_encoding

LONGEST = 1 << 26
"""Bytes; a row is not longer. What is, is a quote that nobody closed."""
_LF, _CR, _QUOTE, _BACKSLASH = b'\n\r"\\'


@dataclass(frozen=True)
class Dialect:
    r"""How a delimited file is written.

    Args:
        delimiter: between fields, one ASCII character.
        quote: encloses a field, doubled within it; None: a quote is text.
        escape: takes the next character's meaning away; None: no character does. Without quotes it begins the codes
            that databases write (`\t`, `\n`, `\\`).
    """

    delimiter: str = ","
    quote: str | None = '"'
    escape: str | None = None

    def __str__(self) -> str:
        named = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}.get(self.delimiter, repr(self.delimiter))
        quote = f"quoted by {self.quote}" if self.quote else "quotes are text"
        return f"{named}-separated, {quote}" + (f", escaped by {self.escape}" if self.escape else "")


@dataclass(frozen=True)
class StructureFault:
    """Where and why a file cannot be read so; lines count from 1."""

    line: int
    message: str


class Lines:
    """Lines on which rows begin. Kept are only the places where a row does not follow on the next line."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []
        self._lines: list[np.ndarray] = []
        self._next = (0, -1)
        self._known: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, lines: np.ndarray) -> None:
        """Note the first lines, ascending, of the rows that follow."""
        if not len(lines):
            return
        count, expected = self._next
        jumps = np.flatnonzero(np.diff(lines, prepend=expected - 1) != 1)
        if len(jumps):
            self._rows.append(jumps + count)
            self._lines.append(lines[jumps])
        self._next = (count + len(lines), int(lines[-1]) + 1)

    def of(self, row: int) -> int:
        """The line on which a row (from 0) begins."""
        if self._known is None:
            self._known = (np.concatenate(self._rows), np.concatenate(self._lines))
        rows, lines = self._known
        at = int(np.searchsorted(rows, row, side="right")) - 1
        return int(lines[at] + row - rows[at])


@dataclass
class Structure:
    r"""What a pass over a file found under one dialect; it ends at the first fault.

    Args:
        dialect: the reading that was tried.
        header: the names in the first line, or those given.
        rows: below the header.
        lines: where they begin.
        widest: bytes of the longest row.
        quotes: whether a quote was seen.
        wrapped: how many fields are enclosed in quotes and end on the line they begin on.
        spanning: first and last line of the first row that goes over several lines.
        row_like: the same of the first such row each of whose lines could be a row of its own.
        database_nulls: how many fields are `\N`.
        fault: why the file cannot be read so.
    """

    dialect: Dialect
    header: list[str] = field(default_factory=list)
    rows: int = 0
    lines: Lines = field(default_factory=Lines)
    widest: int = 0
    quotes: bool = False
    wrapped: int = 0
    spanning: tuple[int, int] | None = None
    row_like: tuple[int, int] | None = None
    database_nulls: int = 0
    fault: StructureFault | None = None


def scan(path: Path, dialect: Dialect, *, names: Sequence[str] | None = None, encoding: str | None = None) -> Structure:
    """Pass over a whole file.

    Args:
        path: the file.
        dialect: how to read it.
        names: of the columns, where the file has no header.
        encoding: of the file; see `utf8_blocks`.

    Raises:
        DataError: the file is no text, is damaged, or has not a single line.
    """
    scanner = _Scanner(dialect, list(names) if names is not None else None)
    held = b""
    for block in utf8_blocks(path, encoding):
        text = held + block
        cut = _line_end(text)
        if cut:
            held = text[:cut]
            held = held[scanner.take(held, final=False) :] + text[cut:]
        else:
            held = text
        if scanner.found.fault:
            return scanner.found
        if len(held) > LONGEST:
            return scanner.stop(
                scanner.line, f"a row or a quoted value that begins here is longer than {LONGEST:,} bytes"
            )
    if held:
        scanner.take(held if held[-1] in (_LF, _CR) else held + b"\n", final=True)
    if scanner.undecodable:
        raise wrong_encoding(path, encoding)
    if not scanner.found.header and scanner.found.fault is None:
        raise DataError("the file is empty", file=path)
    return scanner.found


class _Scanner:
    """Takes blocks that begin with a row."""

    def __init__(self, dialect: Dialect, names: list[str] | None) -> None:
        self.found = Structure(dialect, header=names or [])
        self.headless, self.undecodable = names is None, False
        self.line = 1
        self.delimiter = ord(dialect.delimiter)
        self.quote = ord(dialect.quote) if dialect.quote else None
        self.escape = ord(dialect.escape) if dialect.escape else None

    def stop(self, line: int, message: str) -> Structure:
        self.found.fault = self.found.fault or StructureFault(line, message)
        return self.found

    def _stray(self, opened: int, closed: int) -> None:
        where = "" if opened == closed else f" on line {closed}, and it was opened here"
        self.stop(opened, f"text follows a closing quote{where}")

    def take(self, block: bytes, final: bool) -> int:
        """Note the whole rows of a block that ends with a line end; returns how many bytes they are."""
        body = np.frombuffer(block, np.uint8)
        breaks = _line_ends(body, block)
        places = np.flatnonzero(body == self.delimiter)
        if self.quote is not None and self.quote in block:
            self.found.quotes = True
            return self._quoted(block, body, breaks, places, final)
        return self._unquoted(block, body, breaks, places, final)

    def _unquoted(self, block: bytes, body: np.ndarray, breaks: np.ndarray, places: np.ndarray, final: bool) -> int:
        """Rows of a block in which no quote has a meaning."""
        ends, outside = breaks, places
        spans: np.ndarray | None = None
        if self.escape is None or self.escape not in block:
            if self._even(breaks, places):
                self._fields(block, body, breaks, places)
                return self._lines(breaks)
        else:
            ends, outside = (x[~_escaped(body, x, self.escape)] for x in (breaks, places))
            if final and (not len(ends) or ends[-1] != breaks[-1]):
                ends = np.append(ends, breaks[-1])
            if self.quote is not None:
                spans = places
        if not len(ends):
            return 0
        self._fields(block, body, ends, outside)
        return self._rows(block, body, breaks, ends, outside, spans)

    def _even(self, breaks: np.ndarray, places: np.ndarray) -> bool:
        """Whether each line has as many delimiters as the header, so that each is a row and nothing else is to be seen."""
        per_line = len(self.found.header) - 1
        if self.headless or per_line < 1 or len(places) != per_line * len(breaks):
            return False
        lines = places.reshape(len(breaks), per_line)
        return bool((lines[:, -1] < breaks).all() and (lines[1:, 0] > breaks[:-1]).all())

    def _lines(self, breaks: np.ndarray) -> int:
        """Note that each line is a row; returns how many bytes they are."""
        found, count = self.found, len(breaks)
        found.widest = max(found.widest, int(np.diff(breaks, prepend=-1).max()))
        found.rows += count
        found.lines.add(np.arange(self.line, self.line + count))
        self.line += count
        return int(breaks[-1]) + 1

    def _quoted(self, block: bytes, body: np.ndarray, breaks: np.ndarray, places: np.ndarray, final: bool) -> int:
        quotes = np.flatnonzero(body == self.quote)
        ends, outside = breaks, places
        if self.escape is not None and self.escape in block:
            quotes, ends, outside = (x[~_escaped(body, x, self.escape)] for x in (quotes, breaks, places))
        before = body[np.maximum(quotes - 1, 0)]
        after = body[np.minimum(quotes + 1, len(body) - 1)]
        opens = np.arange(len(quotes)) % 2 == 0
        doubled = np.zeros(len(quotes), bool)
        doubled[1:] = np.diff(quotes) == 1
        edge = np.zeros(256, bool)
        edge[[self.delimiter, _LF, _CR]] = True
        at_start = (quotes == 0) | edge[before]
        if not at_start.any():
            # No field begins with a quote: each is a part of a text, such as 5" screen.
            return self._unquoted(block, body, breaks, places, final)
        at_start |= doubled
        followed = np.append(doubled[1:], False)
        at_end = edge[after] | followed
        wrong = np.flatnonzero(np.where(opens, ~at_start, ~at_end))
        if len(wrong) and opens[wrong[0]]:
            return self._careful(block, final)
        if len(wrong):
            opened, closed = np.searchsorted(breaks, quotes[wrong[0] - 1 : wrong[0] + 1])
            self._stray(self.line + int(opened), self.line + int(closed))
            return len(block)
        ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
        outside = outside[np.searchsorted(quotes, outside) % 2 == 0]
        self.found.wrapped += int(np.count_nonzero(~opens & ~followed))
        if final and len(quotes) % 2:
            line = self.line + int(np.searchsorted(breaks, quotes[-1]))
            self.stop(line, "a quote is opened here and never closed")
            return len(block)
        if len(ends) == len(breaks) and self._even(breaks, outside):
            return self._lines(breaks)
        return self._rows(block, body, breaks, ends, outside, places) if len(ends) else 0

    def _rows(
        self,
        block: bytes,
        body: np.ndarray,
        breaks: np.ndarray,
        ends: np.ndarray,
        outside: np.ndarray,
        places: np.ndarray | None,
    ) -> int:
        """Note rows that end at `ends`, with delimiters `outside` quotes, of lines that end at `breaks`."""
        starts = np.concatenate(([0], ends[:-1] + 1))
        counts = np.diff(np.searchsorted(outside, ends), prepend=0) + 1
        blank = (ends - starts == 0) | ((ends - starts == 1) & (body[starts] == _CR))
        first = np.searchsorted(breaks, starts)
        spans = np.diff(first, append=np.searchsorted(breaks, ends[-1], side="right"))
        alike = None
        if places is not None and spans.max() > 1:
            per_line = np.diff(np.searchsorted(places, breaks), prepend=0) + 1
            alike = per_line
        self._note(block, starts, ends, counts, blank, first, spans, alike)
        consumed = int(ends[-1]) + 1
        self.line += int(np.searchsorted(breaks, consumed))
        return consumed

    def _note(
        self,
        block: bytes,
        starts: np.ndarray,
        ends: np.ndarray,
        counts: np.ndarray,
        blank: np.ndarray,
        first: np.ndarray,
        spans: np.ndarray,
        per_line: np.ndarray | None,
    ) -> None:
        found = self.found
        found.widest = max(found.widest, int((ends - starts).max()) + 1)
        kept = np.flatnonzero(~blank)
        if self.headless and len(kept):
            row = kept[0]
            self._header(block[starts[row] : ends[row]])
            self.headless, kept = False, kept[1:]
        width = len(found.header)
        wrong = np.flatnonzero(counts[kept] != width)
        if len(wrong):
            row = kept[wrong[0]]
            self.stop(self.line + int(first[row]), _count_message(int(counts[row]), width))
            kept = kept[: wrong[0]]
        if per_line is not None:
            several = kept[spans[kept] > 1]
            if len(several):
                found.spanning = found.spanning or self._span(several[0], first, spans)
                if width > 2 and found.row_like is None:
                    same = np.concatenate(([0], np.cumsum(per_line == width)))
                    alike = several[same[first[several] + spans[several]] - same[first[several]] == spans[several]]
                    found.row_like = self._span(alike[0], first, spans) if len(alike) else None
        found.rows += len(kept)
        found.lines.add(self.line + first[kept])

    def _span(self, row: int, first: np.ndarray, spans: np.ndarray) -> tuple[int, int]:
        return self.line + int(first[row]), self.line + int(first[row] + spans[row]) - 1

    def _header(self, line: bytes) -> None:
        try:
            text = line.decode()
        except UnicodeDecodeError:
            self.undecodable = True
            text = line.decode("latin-1")
        [names] = _reader([text], self.found.dialect, strict=False)
        self.found.header = [name.strip() for name in names]

    def _fields(self, block: bytes, body: np.ndarray, ends: np.ndarray, places: np.ndarray) -> None:
        r"""Count the fields that are in quotes or `\N`, where no quote has a meaning."""
        plain = self.quote is None and b'"' in block
        nulls = b"\\" in block and b"\\N" in block
        if not plain and not nulls:
            return
        stops = np.sort(np.concatenate((places, ends)))
        starts = np.concatenate(([0], stops[:-1] + 1))
        last = stops - 1 - ((body[stops] == _LF) & (body[np.maximum(stops - 1, 0)] == _CR))
        long = last > starts
        starts, last = starts[long], last[long]
        if plain:
            self.found.quotes = True
            self.found.wrapped += int(np.count_nonzero((body[starts] == _QUOTE) & (body[last] == _QUOTE)))
        pairs = last == starts + 1
        self.found.database_nulls += int(
            np.count_nonzero(pairs & (body[starts] == _BACKSLASH) & (body[last] == ord("N")))
        )

    def _careful(self, block: bytes, final: bool) -> int:
        """The same by the standard library's reader: exact, and some times slower."""
        text = block.decode("latin-1")
        lines = list(io.StringIO(text, newline=""))
        reader = _reader(lines, self.found.dialect, strict=True)
        counts, stops, fault = [], [0], ""
        try:
            for row in reader:
                counts.append(len(row))
                stops.append(reader.line_num)
                self.found.wrapped += 1  # not counted one by one: enclosed values are likely beside loose quotes
        except csv.Error as error:
            fault = str(error)
        broken = self.line + (reader.line_num - 1)
        whole = len(stops) - 1
        if whole:
            sizes = np.fromiter((len(line) for line in lines), np.int64, len(lines))
            edges = np.concatenate(([0], np.cumsum(sizes)))
            first, after = np.array(stops[:-1]), np.array(stops[1:])
            per_line = np.fromiter(
                (line.count(self.found.dialect.delimiter) + 1 for line in lines), np.int64, len(lines)
            )
            sized = np.array(counts)
            self._note(block, edges[first], edges[after] - 1, sized, sized == 0, first, after - first, per_line)
        if "end of data" not in fault and fault:
            self._stray(self.line + stops[-1], broken)
        elif fault and final:
            self.stop(self.line + stops[-1], "a quote is opened here and never closed")
        consumed = sum(map(len, lines[: stops[-1]]))
        self.line += stops[-1]
        return len(block) if self.found.fault else consumed


def _count_message(count: int, width: int) -> str:
    return f"{count} field{'s' if count != 1 else ''} where the header has {width}"


def _reader(lines: Sequence[str], dialect: Dialect, strict: bool) -> Any:
    csv.field_size_limit(LONGEST)
    return csv.reader(
        iter(lines),
        delimiter=dialect.delimiter,
        quotechar=dialect.quote,
        quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
        escapechar=dialect.escape,
        strict=strict,
    )


def _line_end(text: bytes) -> int:
    """Where the last line of a block ends; a carriage return at the very end may be half of a line end."""
    return max(text.rfind(b"\n"), text.rfind(b"\r", 0, len(text) - 1)) + 1


def _line_ends(body: np.ndarray, block: bytes) -> np.ndarray:
    """Positions at which lines end: line feeds, and carriage returns without one."""
    if b"\r" not in block:
        return np.flatnonzero(body == _LF)
    returns = np.flatnonzero(body == _CR)
    alone = returns[body[np.minimum(returns + 1, len(body) - 1)] != _LF]
    feeds = np.flatnonzero(body == _LF)
    return np.sort(np.concatenate((feeds, alone))) if len(alone) else feeds


def _escaped(body: np.ndarray, places: np.ndarray, escape: int) -> np.ndarray:
    """Which places an odd number of escape characters precedes."""
    odd = np.zeros(len(places), bool)
    left, back = np.arange(len(places)), 1
    while len(left):
        at = places[left] - back
        left = left[(at >= 0) & (body[np.maximum(at, 0)] == escape)]
        odd[left] ^= True
        back += 1
    return odd
