"""Which dialect a delimited file is written in: known by its name, set by `data.csv`, or found out from the whole file.

A dialect is taken only if it accounts for every line of the file. Where several do, the one that swallows no line wins;
where that is no evidence either, the user must say.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from core.errors import DataError
from core.log import logger
from core.settings import CsvDialect
from ingest.stream import utf8_blocks
from ingest.structure import Dialect, Structure, scan

LOG = logger("ingest")
_DELIMITERS = (",", ";", "\t", "|")
_MEND = {
    "fields": "mend the line, or set data.csv.delimiter, data.csv.quote or data.csv.escape to what the file uses",
    "quote": "mend the line; or set data.csv.quote: none if quotes are text here, or data.csv.escape: \\ if a backslash "
    "stands before them",
}


def find(
    path: Path,
    given: CsvDialect,
    *,
    usual: str = ",",
    names: Sequence[str] | None = None,
    known: Collection[str] = (),
    encoding: str | None = None,
) -> Structure:
    """The structure of a file under the dialect that fits it.

    Args:
        path: the file.
        given: what the settings say; `auto` is found out.
        usual: the delimiter that files of this name have.
        names: of the columns, where the file has no header.
        known: column names that the settings mention; a reading that finds them is preferred.
        encoding: of the file.

    Raises:
        DataError: no dialect accounts for every line, or several do and read the file differently.
    """
    fixed = given.delimiter_character
    delimiters = [fixed] if fixed else _candidates(path, usual, encoding)
    found: list[Structure] = []
    failed: list[DataError] = []
    for delimiter in delimiters:
        try:
            found.append(_quoting(path, delimiter, given, lambda d: scan(path, d, names=names, encoding=encoding)))
        except _NoDialectError as error:
            failed.append(error.error)
    if not found:
        raise failed[0]
    best = max(found, key=lambda s: (len(set(s.header) & set(known)), len(s.header) > 1, s.dialect.delimiter == usual))
    if best.dialect not in (Dialect(usual), Dialect(usual, None if best.quotes else '"')) or (
        best.quotes and best.dialect.quote is None
    ):
        LOG.info("%s is read as %s", path, best.dialect)
    return best


class _NoDialectError(Exception):
    def __init__(self, error: DataError) -> None:
        self.error = error


def _candidates(path: Path, usual: str, encoding: str | None) -> list[str]:
    """Delimiters that the first line holds, the usual one first."""
    head = b""
    for block in utf8_blocks(path, encoding, 1 << 16):
        head = (head + block).lstrip(b"\r\n")
        if b"\n" in head or b"\r" in head or len(head) > 1 << 24:
            break
    line = head.split(b"\n")[0].split(b"\r")[0]
    order = dict.fromkeys((usual, *_DELIMITERS))
    return [one for one in order if one.encode() in line] or [usual]


def _quoting(path: Path, delimiter: str, given: CsvDialect, read: Callable[[Dialect], Structure]) -> Structure:
    if given.quote != "auto" and given.escape != "auto":
        return _sound(path, read(Dialect(delimiter, given.quote_character, given.escape_character)))
    escape = given.escape_character
    plain = lambda: read(Dialect(delimiter, None, escape))  # noqa: E731
    if given.quote == "none":
        return _without_quotes(path, delimiter, plain(), read)
    quote = given.quote_character or '"'
    tried = [read(Dialect(delimiter, quote, escape))]
    first = tried[0]
    if first.fault is None and first.spanning is None:
        single = None if first.quotes or given.quote != "auto" else _single(delimiter, escape, first, read)
        return single or (first if first.quotes or escape else _with_codes(first, delimiter, given, read))
    if given.escape == "auto":
        tried.append(read(Dialect(delimiter, quote, "\\")))
    sound = [one for one in tried if one.fault is None]
    if given.quote != "auto":
        return max(sound, key=lambda s: s.rows) if sound else _sound(path, first)
    text = plain()
    best = max(sound, key=lambda s: s.rows, default=None)
    if text.fault is None and best is None and delimiter != "\t" and _opens_in_last_row(first, text):
        raise _ambiguous(path, first, None)
    if text.fault is None and (best is None or text.rows > best.rows):
        if _quotes_can_be_text(text, delimiter):
            return _with_codes(text, delimiter, given, read)
        raise _ambiguous(path, first, best)
    if best is not None:
        if best.row_like is not None:
            raise _ambiguous(path, first, best)
        return best
    single = read(Dialect(delimiter, "'", escape))
    if single.fault is None and single.wrapped and single.row_like is None:
        return single
    if given.escape == "auto" and (coded := read(Dialect(delimiter, None, "\\"))).fault is None:
        return coded
    return _sound(path, first)


def _without_quotes(path: Path, delimiter: str, text: Structure, read: Callable[[Dialect], Structure]) -> Structure:
    if text.fault is not None and text.dialect.escape is None:
        coded = read(Dialect(delimiter, None, "\\"))
        return coded if coded.fault is None else _sound(path, text)
    return _sound(path, text)


def _with_codes(text: Structure, delimiter: str, given: CsvDialect, read: Callable[[Dialect], Structure]) -> Structure:
    r"""A file without quotes in which `\N` stands for nothing comes from a database, which writes `\t` for a tab."""
    if given.escape != "auto" or not text.database_nulls:
        return text
    coded = read(Dialect(delimiter, None, "\\"))
    return coded if coded.fault is None and coded.rows == text.rows else text


def _single(
    delimiter: str, escape: str | None, first: Structure, read: Callable[[Dialect], Structure]
) -> Structure | None:
    """The reading with single quotes, where all names of the header are in them."""
    if not all(len(name) > 1 and name[0] == name[-1] == "'" for name in first.header):
        return None
    single = read(Dialect(delimiter, "'", escape))
    return single if single.fault is None and single.row_like is None else None


def _opens_in_last_row(quoted: Structure, text: Structure) -> bool:
    """Whether a quote is opened in the last row alone: the file may have been cut off there."""
    return bool(text.rows and quoted.fault and quoted.fault.line == text.lines.of(text.rows - 1))


def _quotes_can_be_text(text: Structure, delimiter: str) -> bool:
    """Whether a file read without quotes looks as if it had none: enclosed fields speak against it, save in a TSV."""
    if any(len(name) > 1 and name[0] == name[-1] == '"' for name in text.header):
        return False
    return delimiter == "\t" or not text.wrapped


def _sound(path: Path, found: Structure) -> Structure:
    if found.fault is None:
        return found
    mend = _MEND["fields" if "field" in found.fault.message else "quote"]
    message = f"read as {found.dialect}: {found.fault.message}; {mend}"
    raise _NoDialectError(DataError(message, file=path, row=found.fault.line))


def _ambiguous(path: Path, quoted: Structure, best: Structure | None) -> _NoDialectError:
    if best is not None and (lines := best.row_like or best.spanning):
        message = (
            f"a quote that is opened on this line closes on line {lines[1]}, though each of these lines could be a row "
            'of its own: is a quote missing? Mend the line; or set data.csv.quote to " if it is one value, or to none '
            "if quotes are text here"
        )
        return _NoDialectError(DataError(message, file=path, row=lines[0]))
    assert quoted.fault is not None
    message = f"read as {quoted.dialect}: {quoted.fault.message}; {_MEND['quote']}"
    return _NoDialectError(DataError(message, file=path, row=quoted.fault.line))
