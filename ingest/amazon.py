"""Amazon product reviews (2014 and 2018, McAuley lab): 5-core review files and metadata, one scenario per category.

A review is written after the choice, and helpful votes, sales ranks and related products are of the crawl's time:
none of them is read. The data's owner states no licence: use for research, cite, do not redistribute.
"""

from __future__ import annotations

import ast
import functools
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import json as arrow_json

from core.errors import DataError
from core.log import logger
from core.objects import TwiceError, once, read_json
from core.settings import NULLS, LabelRule
from core.spelling import BLANKS, words
from core.tables import IdTypes
from core.window import Window
from ingest.delimited import BLOCK_BYTES, opened, translated
from ingest.place import Place
from ingest.source import VALUE, VALUES, Source, declared_ids
from ingest.values import Values

LOG = logger("ingest")
_REVIEWS = re.compile(r"^(?!meta_)(?:reviews_)?(?P<category>.+?)(?:_5)?\.json(?:\.gz)?$")
_META = re.compile(r"^meta_(?P<category>.+?)\.json(?:\.gz)?$")
_REVIEW = pa.schema(
    {"reviewerID": pa.string(), "asin": pa.string(), "overall": pa.float64(), "unixReviewTime": pa.int64()}
)
_ITEM = {"brand": pa.string(), "category": pa.string(), "price": pa.float64()}
_ITEM_BATCH = 8192


class Amazon(Source):
    """Reviews of each category's file in `data.path`; `overall` stars make the label (`rating` means the same)."""

    rules = ("source",)

    @property
    def ids(self) -> IdTypes:
        return declared_ids(self.data, IdTypes(pa.string(), pa.string()))

    @property
    def label(self) -> LabelRule:
        rule = self.data.label
        return rule.model_copy(update={"column": "rating"}) if rule.column == "overall" else rule

    @property
    def grade(self) -> str | None:
        return "rating" if self.data.grade == "overall" else self.data.grade

    @property
    def user_columns(self) -> Mapping[str, pa.DataType]:
        return {}

    @property
    def item_columns(self) -> Mapping[str, pa.DataType]:
        return _ITEM

    def files(self) -> list[Path]:
        return [*self._reviews.values(), *self._meta.values()]

    def interactions(self, window: Window | None = None) -> Iterator[pa.RecordBatch]:
        for category, path in self._reviews.items():
            place, values = Place(path, 1), Values(self.data)
            for batch in read_reviews(path, _REVIEW, self.data.nulls):
                user, item, stars, time = batch.columns
                yield pa.RecordBatch.from_pydict(
                    {
                        "user_id": values.ids(user, self.ids.user, place.at("reviewerID")),
                        "item_id": values.ids(item, self.ids.item, place.at("asin")),
                        "event_timestamp": values.times(time, place.at("unixReviewTime"), "s"),
                        "rating": stars,
                        VALUE: pa.repeat(pa.scalar(category), batch.num_rows),
                    }
                )
                place = place.after(batch.num_rows)

    def users(self) -> None:
        return None

    def items(self) -> Iterator[pa.RecordBatch]:
        rows: list[dict[str, Any]] = []
        for row in self._item_rows():
            rows.append(row)
            if len(rows) == _ITEM_BATCH:
                yield self._item_batch(rows)
                rows = []
        if rows:
            yield self._item_batch(rows)

    def _item_batch(self, rows: list[dict[str, Any]]) -> pa.RecordBatch:
        kinds = {"item_id": pa.string(), "title": pa.string(), **_ITEM, VALUES: pa.list_(pa.string())}
        batch = pa.RecordBatch.from_pylist(rows, schema=pa.schema(kinds))
        if pa.types.is_string(self.ids.item):
            return batch
        place = Place(self.data.path, column="asin")
        return batch.set_column(0, "item_id", Values(self.data).ids(batch["item_id"], self.ids.item, place))

    def values(self) -> list[str]:
        return list(self._reviews)

    def describe(self, values: list[str]) -> str:
        names = " or ".join(value.replace("_", " ") for value in values)
        return f"Products of the category {names}." if values else "Products of all other categories."

    @functools.cached_property
    def _reviews(self) -> dict[str, Path]:
        """Category to review file; where a category has a 5-core file beside the whole one, the 5-core file."""
        found: dict[str, Path] = {}
        for path in sorted(self.data.path.iterdir()):
            match = _REVIEWS.match(path.name)
            if match and path.is_file() and ("_5.json" in path.name or match["category"] not in found):
                found[match["category"]] = path
        if not found:
            raise DataError(
                "no review file here; data.path must be a folder with files like reviews_Beauty_5.json.gz",
                file=self.data.path,
            )
        return found

    @functools.cached_property
    def _meta(self) -> dict[str, Path]:
        matches = ((_META.match(path.name), path) for path in sorted(self.data.path.iterdir()))
        found = {match["category"]: path for match, path in matches if match and match["category"] in self._reviews}
        for category in self._reviews.keys() - found.keys():
            LOG.warning("no meta_%s.json.gz in %s: these products have no title", category, self.data.path)
        return found

    def _item_rows(self) -> Iterator[dict[str, Any]]:
        """Reviewed products with their categories: first those with metadata, then those without."""
        left = self._reviewed()
        for category, path in self._meta.items():
            for number, record in read_metadata(path):
                asin = record.get("asin")
                if isinstance(asin, int) and not isinstance(asin, bool):
                    asin = str(asin)
                if not isinstance(asin, str):
                    raise DataError("this product has no asin", file=path, row=number, column="asin")
                asin = asin.strip(BLANKS)
                if asin in left:
                    facts = item_facts(record, category, self.data.nulls)
                    yield {"item_id": asin, **facts, VALUES: left.pop(asin)}
        for asin, categories in left.items():
            yield {"item_id": asin, VALUES: categories}

    def _reviewed(self) -> dict[str, list[str]]:
        """Each reviewed product's categories; the whole log counts, so that all windows have one catalogue."""
        found: dict[str, list[str]] = {}
        for category, path in self._reviews.items():
            for batch in read_reviews(path, pa.schema([_REVIEW.field("asin")]), self.data.nulls):
                for asin in words(batch["asin"], self.data.nulls).drop_null().unique().to_pylist():
                    categories = found.setdefault(asin, [])
                    if category not in categories:
                        categories.append(category)
        return found


def read_reviews(path: Path, schema: pa.Schema, nulls: Sequence[str] = NULLS) -> Iterator[pa.RecordBatch]:
    """Stream some keys of a file with one JSON object per line.

    Raises:
        DataError: a line is not JSON or has a key twice, a value has the wrong type, or a key is in no line.
    """
    known = dict.fromkeys(schema.names, False)
    for batch in _batches(path, schema, nulls):
        for name in schema.names:
            known[name] |= batch[name].null_count < batch.num_rows
        if not all(known.values()):
            raise DataError("no line has this key", file=path, column=min(known, key=known.__getitem__))
        yield batch


def _batches(path: Path, schema: pa.Schema, nulls: Sequence[str]) -> Iterator[pa.RecordBatch]:
    count = 0
    try:
        with translated(path), opened(path) as stream:
            reader = arrow_json.open_json(
                stream,
                read_options=arrow_json.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
                parse_options=arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
            )
            for batch in reader:
                batch.validate(full=True)  # Arrow takes bytes that are no text
                count += batch.num_rows
                yield batch
        return
    except DataError as error:
        if "decompressed" in str(error):
            raise
        fault = error
    # A line that Arrow does not take: a value in another spelling, or a fault, whose line is found here.
    rows: list[list[Any]] = []
    for number, record in enumerate(_reviews_of(path, schema, nulls)):
        if number >= count:
            rows.append(record)
        if len(rows) == _ITEM_BATCH:
            yield _batch(rows, schema)
            rows = []
    if rows:
        yield _batch(rows, schema)
    elif not count:
        raise fault


def _batch(rows: list[list[Any]], schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), schema.types, strict=True)],
        schema=schema,
    )


def _reviews_of(path: Path, schema: pa.Schema, nulls: Sequence[str]) -> Iterator[list[Any]]:
    """The values of each line, one by one."""
    with translated(path), opened(path) as stream:
        for number, line in enumerate(_lines(stream), start=1):
            if not line.strip():
                continue
            try:
                record = read_json(line)
            except ValueError as error:
                raise DataError(str(error), file=path, row=number) from error
            if not isinstance(record, dict):
                raise DataError("not a JSON object", file=path, row=number)
            values = []
            for field in schema:
                try:
                    values.append(_value(record.get(field.name), field.type, nulls))
                except ValueError as error:
                    raise DataError(str(error), file=path, row=number, column=field.name) from error
            yield values


def _value(value: Any, kind: pa.DataType, nulls: Sequence[str]) -> Any:
    """A JSON value as one of a column; text may spell a number, or nothing."""
    if isinstance(value, str):
        text = value.strip(BLANKS)
        if not text or text in nulls:
            return None
        if pa.types.is_string(kind):
            return text
        try:
            return int(text) if pa.types.is_integer(kind) else float(text)
        except ValueError as error:
            raise ValueError(f"{value!r} is no {kind}") from error
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is None or (whole and not pa.types.is_string(kind)):
        return value
    if whole:
        return str(value)
    if isinstance(value, float) and (pa.types.is_floating(kind) or (pa.types.is_integer(kind) and value.is_integer())):
        return value if pa.types.is_floating(kind) else int(value)
    raise ValueError(f"{value!r} is no {kind}")


def read_metadata(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number (from 1) and product of each line: strict JSON (2018) or a Python literal (2014), never evaluated.

    Raises:
        DataError: a line is neither, or has a key twice.
    """
    with translated(path), opened(path) as stream:
        for number, line in enumerate(_lines(stream), start=1):
            if not line.strip():
                continue
            try:
                record = _literal(line)
            except TwiceError as error:
                raise DataError(str(error), file=path, row=number) from error
            if not isinstance(record, dict):
                raise DataError("neither a JSON object nor a Python literal of one", file=path, row=number)
            yield number, record


def item_facts(record: Mapping[str, Any], category: str, nulls: Sequence[str] = NULLS) -> dict[str, Any]:
    """title, brand, category (the most specific one named) and price of a product; null where unknown."""
    paths = record.get("categories") or [record.get("category") or []]
    path = [name for name in paths[0] if isinstance(name, str)] if isinstance(paths[0], list) else []
    return {
        "title": _text(record.get("title"), nulls),
        "brand": _text(record.get("brand"), nulls),
        "category": _text(path[-1], nulls) if path else category.replace("_", " "),
        "price": _price(record.get("price")),
    }


def _lines(stream: pa.NativeFile) -> Iterator[bytes]:
    rest = b""
    while block := stream.read(1 << 20):
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest.strip():
        yield rest


def _literal(line: bytes) -> Any:
    try:
        return json.loads(line, object_pairs_hook=once)
    except TwiceError:
        raise
    except ValueError:
        pass
    try:
        tree = ast.parse(line.decode("utf-8").strip(), mode="eval")
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                once([(key.value, None) for key in node.keys if isinstance(key, ast.Constant)])
        return ast.literal_eval(tree)
    except TwiceError:
        raise
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _text(value: Any, nulls: Sequence[str]) -> str | None:
    """Text without entities; null where it is raw markup, or a word for nothing."""
    if not isinstance(value, str):
        return None
    value = html.unescape(value).strip()
    return None if not value or value in nulls or re.search(r"</?[a-zA-Z!][^>]*>|<!--", value) else value


def _price(value: Any) -> float | None:
    if isinstance(value, str):
        match = re.fullmatch(r"\$?([\d,]+(?:\.\d+)?)", value.strip())
        return float(match[1].replace(",", "")) if match else None
    return float(value) if isinstance(value, int | float) else None
