"""The files that make a table: a file, a folder or a pattern of names, and what in it is not data.

As Spark and Hive write them: names that begin with `_` or `.` are not data, `dt=2026-10-01` is a folder whose name is a
column, a part may have no suffix. A folder that another table format rules (Delta, Iceberg, Hudi) holds files that the
table no longer does: it is refused.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from core.errors import DataError
from ingest.stream import first_bytes

_PARQUET = re.compile(r"\.(parquet|parq|pq)$", re.IGNORECASE)
_CSV = re.compile(r"\.(csv|tsv|tab|txt|psv|dat)(\.(gz|gzip|bz2|xz|zst|zstd|lz4))?$", re.IGNORECASE)
_TSV = re.compile(r"\.(tsv|tab)(\.\w+)?$", re.IGNORECASE)
_OTHER = re.compile(
    r"\.(jsonl?|ndjson|orc|avro|feather|arrow|ipc|xlsx?|ods|xml|zip|7z|rar|tar|tgz|db|sqlite3?|h5|pkl|npy|npz|sas7bdat|"
    r"snappy|deflate|lzo|br)"
    r"(\.(gz|bz2|xz|zst))?$",
    re.IGNORECASE,
)
_NOTHING = "__HIVE_DEFAULT_PARTITION__"
_EXAMPLES = 3
_FORMATS = {
    "_delta_log": (
        "a Delta table, whose folder also holds rows that were deleted or replaced",
        'spark.read.format("delta").load(TABLE).write.parquet(OUT), or '
        "deltalake.DeltaTable(TABLE).to_pyarrow_dataset() and pyarrow.dataset.write_dataset",
    ),
    ".hoodie": (
        "a Hudi table, whose folder also holds rows that were deleted or replaced",
        'spark.read.format("hudi").load(TABLE).write.parquet(OUT)',
    ),
    "metadata": (
        "an Iceberg table, whose folder also holds rows that were deleted or replaced",
        'spark.read.format("iceberg").load(TABLE).write.parquet(OUT)',
    ),
}


@dataclass(frozen=True)
class Part:
    """One file of a table.

    Args:
        path: the file.
        kind: what it is.
        partition: columns that the names of its folders give; None: no value.
    """

    path: Path
    kind: Literal["parquet", "csv"]
    partition: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def usual_delimiter(self) -> str:
        """What separates fields in a CSV file of this name."""
        return "\t" if _TSV.search(self.path.name) else ","


@dataclass(frozen=True)
class Parts:
    """The files of a table in order of their names, and what lies among them and is not read."""

    found: tuple[Part, ...]
    left_out: tuple[tuple[Path, str], ...] = ()

    def says(self, base: Path) -> str:
        """How many files are read and what is left out, for people."""
        kinds = {"parquet": "parquet", "csv": "CSV"}
        text = f"{len(self.found)} {kinds[self.found[0].kind]} file{'s' if len(self.found) != 1 else ''}"
        if not self.left_out:
            return text
        named = [f"{os.path.relpath(path, base)} ({why})" for path, why in self.left_out[:_EXAMPLES]]
        more = len(self.left_out) - len(named)
        return f"{text}; left out {len(self.left_out)}: {', '.join(named)}" + (f" and {more} more" if more else "")


def parts_of(base: Path, name: str, key: str) -> Parts:
    """Find the files of a table.

    Args:
        base: `data.path`.
        name: a file, a folder, or a pattern such as `clicks/*.csv.gz` or `clicks/**/part-*`, below `base` or absolute.
        key: the setting that says `name`, for errors.

    Raises:
        DataError: there is no such file, the folder holds no data or data of two kinds, is a table of another format,
            or holds a file that cannot be told.
    """
    path = base / name
    if path.is_dir():
        _refuse_formats(base, path, [])
        found, left = _folder(path, key)
    elif glob.has_magic(name) and not path.exists():
        found, left = _pattern(path, key)
    elif path.is_file():
        found, left = [Part(path, _kind(path, key, named=True))], []
    elif path.is_symlink():
        raise DataError(f"this link leads nowhere; see data.path and {key}", file=path)
    else:
        raise DataError(f"this file does not exist; see data.path and {key}", file=path)
    _refuse_formats(base, path, [part.path for part in found])
    if not found:
        seen = f"; it holds {len(left)} that are not: {left[0][0].name} ({left[0][1]})" if left else ""
        raise DataError(f"this folder holds no parquet or CSV files{seen}; see {key}", file=path)
    _check_alike(found, path, key)
    return Parts(tuple(found), tuple(left))


def one_part(path: Path, key: str) -> Part:
    """A single file that a person named.

    Raises:
        DataError: it is neither parquet nor CSV; `key` says where it was named.
    """
    return Part(path, _kind(path, key, named=True))


def _folder(folder: Path, key: str) -> tuple[list[Part], list[tuple[Path, str]]]:
    found: list[Part] = []
    left: list[tuple[Path, str]] = []
    for path, why in _walk(folder, set()):
        why = why or _no_data(path, key, folder.name)
        if why:
            left.append((path, why))
        else:
            found.append(Part(path, _kind(path, key, named=False), _partition(path.relative_to(folder).parent)))
    return found, left


def _pattern(pattern: Path, key: str) -> tuple[list[Part], list[tuple[Path, str]]]:
    fixed = Path(*_before_magic(pattern.parts))
    matches = sorted(Path(match) for match in glob.glob(str(pattern), recursive=True))  # noqa: PTH207  # absolute patterns, too
    if not matches:
        raise DataError(f"no file has a name like this; see data.path and {key}", file=pattern)
    found: dict[Path, Part] = {}
    left: dict[Path, str] = {}
    for match in matches:
        hidden = any(_is_hidden(part) for part in match.relative_to(fixed).parts)
        inside = list(_walk(match, set())) if match.is_dir() and not hidden else [(match, "")]
        for path, why in inside:
            asked = path == match and pattern.name.endswith(path.suffix or pattern.name)
            why = why or ("not data by its name" if hidden else _no_data(path, key, fixed.name, asked))
            if why:
                left[path] = why
            else:
                found[path] = Part(path, _kind(path, key, True), _partition(path.relative_to(fixed).parent))
    return [found[path] for path in sorted(found)], [(path, left[path]) for path in sorted(left) if path.is_file()]


def _walk(folder: Path, above: set[Path]) -> Iterator[tuple[Path, str]]:
    """Files below a folder in order of their names, each with why it is no data."""
    above = above | {folder.resolve()}
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and not path.exists():
            raise DataError("this link leads nowhere, so that rows would be missing", file=path)
        if path.is_dir() and path.resolve() in above:
            yield path, "a link to a folder above it"
        elif _is_hidden(path.name):
            yield from ((inside, "not data by its name") for inside in _files(path))
        elif path.is_dir():
            yield from _walk(path, above)
        else:
            yield path, ""


def _no_data(path: Path, key: str, folder: str, asked: bool = False) -> str:
    """Why a file of a folder is no data; an empty text if it is. `asked`: a pattern names its suffix."""
    if _is_empty(path):
        return "empty"
    if _readable(path) or not _suffixed(path):
        return ""
    if _OTHER.search(path.name):
        raise DataError(
            f"neither parquet nor CSV, but it lies among the files of {key}; move it away, export it as one of them, or "
            f"name the files by a pattern, e.g. {key}: {folder}/*.parquet",
            file=path,
        )
    return "" if asked else "neither parquet nor CSV by its name"


def _is_empty(path: Path) -> bool:
    size = path.stat().st_size
    # Nothing at all takes some bytes when it is compressed.
    return size == 0 or (size < 64 and bool(_CSV.search(path.name)) and not first_bytes(path, 1))


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) or [path] if path.is_dir() else [path]


def _is_hidden(name: str) -> bool:
    # Spark: `_c0=1` is a partition of a column without a name.
    return name.startswith(".") or (name.startswith("_") and "=" not in name) or name.endswith((".crc", "~"))


def _readable(path: Path) -> bool:
    return bool(_PARQUET.search(path.name) or _CSV.search(path.name))


def _suffixed(path: Path) -> bool:
    """Whether a name ends in letters after a dot: `README.md`, but neither `part-00000` nor `part-0.c000`."""
    return bool(re.search(r"\.[A-Za-z]\w*$", path.name)) and not re.search(r"\.c\d+$", path.name)


def _kind(path: Path, key: str, named: bool) -> Literal["parquet", "csv"]:
    """What a file is: by its name, else by its first bytes. `named`: a person named it, so that text is taken as CSV."""
    if _PARQUET.search(path.name):
        return "parquet"
    if _CSV.search(path.name):
        return "csv"
    if _OTHER.search(path.name):
        raise DataError(f"neither parquet nor CSV; export it as one of them, see {key}", file=path)
    head = first_bytes(path, 1 << 12)
    if head.startswith(b"PAR1"):
        return "parquet"
    if named and b"\0" not in head and head.lstrip()[:1] not in (b"{", b"["):
        return "csv"
    raise DataError(
        "neither parquet nor CSV by its name or its first bytes; let the name end in .parquet, .csv or .tsv, or name "
        f"the files by a pattern in {key}, e.g. {path.parent.name}/part-*",
        file=path,
    )


def _partition(folders: Path) -> dict[str, str | None]:
    pairs = [name.split("=", 1) for name in folders.parts if "=" in name and not name.startswith("=")]
    return {unquote(key): None if value == _NOTHING else unquote(value) for key, value in pairs}


def _before_magic(parts: tuple[str, ...]) -> list[str]:
    count = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return list(parts[:count])


def _refuse_formats(base: Path, path: Path, files: list[Path]) -> None:
    folders = {folder for file in files for folder in file.parents} | {path}
    for folder in sorted(folders):
        for mark, (kind, export) in _FORMATS.items():
            if mark == "metadata" and (folder in base.parents or not list((folder / mark).glob("*.metadata.json"))):
                continue
            if (folder / mark).is_dir():
                raise DataError(f"{kind}; write it out as plain parquet first: {export}", file=folder)


def _check_alike(found: list[Part], path: Path, key: str) -> None:
    first = found[0]
    real: dict[Path, Path] = {}
    for part in found:
        if part.kind != first.kind:
            message = f"this is {part.kind}, but {first.path} is {first.kind}; name one kind by a pattern in {key}"
            raise DataError(message, file=part.path)
        if list(part.partition) != list(first.partition):
            given, other = (", ".join(p.partition) or "none" for p in (part, first))
            message = f"its folders give the columns {given}, those of {first.path} give {other}"
            raise DataError(message, file=part.path)
        twin = real.setdefault(part.path.resolve(), part.path)
        if twin != part.path:
            raise DataError(f"the same file as {twin} by a link: its rows would count twice; see {key}", file=part.path)
