"""MovieLens: the CSV layout of latest and latest-small, and the `::` layout (latin-1) of MovieLens 1M.

Harper and Konstan 2015, doi 10.1145/2827872. MovieLens 1M may not be redistributed; see GroupLens' terms.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from core.errors import DataError
from core.settings import CsvDialect, DataSettings
from core.tables import IdTypes
from core.window import Window
from ingest.delimited import Delimited, opened, wrong_encoding
from ingest.place import Place
from ingest.source import VALUE, VALUES, Source, declared_ids, existing
from ingest.values import Values

_KNOWN = CsvDialect(delimiter=",", quote='"', escape="none")
_OLD = CsvDialect(delimiter=":", quote="none", escape="none")
NO_GENRES = "(no genres listed)"
_AGES = {
    "1": "under 18",
    "18": "18 to 24",
    "25": "25 to 34",
    "35": "35 to 44",
    "45": "45 to 49",
    "50": "50 to 55",
    "56": "56 and older",
}
_RATINGS = ("userId", "movieId", "rating", "timestamp")
_MOVIES = ("movieId", "title", "genres")
_USERS = {
    "user_id": pa.int64(),
    "gender": pa.string(),
    "age": pa.string(),
    "occupation": pa.string(),
    "zip": pa.string(),
}


class MovieLens(Source):
    """Ratings of films. The layout is told from the files in `data.path`.

    `first_genre` (the default rule) makes the scenario from the film, `age` (1M only) from the user.
    """

    rules = ("first_genre", "age")

    def __init__(self, data: DataSettings) -> None:
        super().__init__(data)
        self.old = (data.path / "ratings.dat").is_file()
        if self.rule == "age" and not self.old:
            raise DataError("rule age needs MovieLens 1M; this folder holds no ratings.dat", file=data.path)

    @property
    def ids(self) -> IdTypes:
        return declared_ids(self.data, IdTypes(pa.int64(), pa.int64()))

    @property
    def user_columns(self) -> Mapping[str, pa.DataType]:
        return {name: kind for name, kind in _USERS.items() if name != "user_id"} if self.old else {}

    @property
    def item_columns(self) -> Mapping[str, pa.DataType]:
        return {"genres": pa.string(), "first_genre": pa.string(), "year": pa.float64()}

    def files(self) -> list[Path]:
        names = ("ratings.dat", "movies.dat", "users.dat") if self.old else ("ratings.csv", "movies.csv")
        hint = "data.path must be a folder with ratings.csv and movies.csv, or ratings.dat, movies.dat and users.dat"
        return [existing(self.data.path / name, hint) for name in names]

    def interactions(self, window: Window | None = None) -> Iterator[pa.RecordBatch]:
        keys, values = self._scenario_values
        key = 0 if self.rule == "age" else 1
        ratings, values_of = self._ratings(), Values(self.data)
        place = ratings.place()
        for batch in ratings.read(dict.fromkeys(_RATINGS, pa.string())):
            user, item, rating, time = batch.columns
            user = values_of.ids(user, self.ids.user, place.at("userId"))
            item = values_of.ids(item, self.ids.item, place.at("movieId"))
            found = pc.index_in((user, item)[key], value_set=keys)
            yield pa.RecordBatch.from_pydict(
                {
                    "user_id": user,
                    "item_id": item,
                    "event_timestamp": values_of.times(time, place.at("timestamp"), "s"),
                    "rating": values_of.numbers(rating, place.at("rating")),
                    VALUE: values.take(found),
                }
            )
            place = place.after(batch.num_rows)

    def users(self) -> Iterator[pa.RecordBatch] | None:
        return self._users() if self.old else None

    def items(self) -> Iterator[pa.RecordBatch]:
        items = self._movies
        if self.rule == "first_genre":
            values = [[value] if value is not None else [None] for value in items["first_genre"].to_pylist()]
            items = items.append_column(VALUES, pa.array(values, pa.list_(pa.string())))
        yield from items.to_batches()

    def values(self) -> list[str]:
        if self.rule == "age":
            return list(_AGES)
        return sorted(pc.unique(self._movies["first_genre"]).drop_null().to_pylist())

    def describe(self, values: list[str]) -> str:
        if self.rule == "age":
            ages = [_AGES.get(value, value) for value in values]
            return f"Viewers aged {' or '.join(ages)}." if values else "Viewers of all other ages."
        return f"Films that are first of all {' or '.join(values)}." if values else "Films of all other genres."

    def _ratings(self) -> Delimited:
        path = self.files()[0]
        if self.old:
            # `::` read as two `:` around an empty column; the four fields are numbers, so no other `:` can occur.
            names = ("userId", "_1", "movieId", "_2", "rating", "_3", "timestamp")
            return Delimited.find(path, _OLD, names=names, encoding=self.data.encoding)
        return self._csv(path)

    def _csv(self, path: Path) -> Delimited:
        return Delimited.find(path, self.data.csv.or_else(_KNOWN), encoding=self.data.encoding)

    def _users(self) -> Iterator[pa.RecordBatch]:
        names = ("user_id", "_1", "gender", "_2", "age", "_3", "occupation", "_4", "zip")
        file, values = (
            Delimited.find(self.files()[2], _OLD, names=names, encoding=self._old_encoding),
            Values(self.data),
        )
        place, kinds = file.place(), {**_USERS, "user_id": self.ids.user}
        for batch in file.read(dict.fromkeys(_USERS, pa.string())):
            yield values.read(batch, kinds, place)
            place = place.after(batch.num_rows)

    @property
    def _old_encoding(self) -> str:
        return self.data.encoding or "latin-1"

    @functools.cached_property
    def _movies(self) -> pa.Table:
        """item_id, title, genres, first_genre, year of all films."""
        path = self.files()[1]
        if self.old:
            raw, place = _split_lines(path, self._old_encoding), Place(path)
        else:
            file, kinds = self._csv(path), dict.fromkeys(_MOVIES, pa.string())
            raw, place = pa.Table.from_batches(file.read(kinds), schema=pa.schema(kinds)), file.place()
        ids = Values(self.data).ids(raw["movieId"].combine_chunks(), self.ids.item, place.at("movieId"))
        genres = pc.if_else(pc.is_in(raw["genres"], pa.array(["", NO_GENRES])), None, raw["genres"])
        year = pc.struct_field(pc.extract_regex(raw["title"], r"\((?P<year>\d{4})\)\s*$"), "year")
        return pa.table(
            {
                "item_id": ids,
                "title": raw["title"],
                "genres": genres,
                "first_genre": pc.list_element(pc.split_pattern(genres, "|"), 0),
                "year": year.cast(pa.float64()),
            }
        ).combine_chunks()

    @functools.cached_property
    def _scenario_values(self) -> tuple[pa.Array, pa.Array]:
        """Ids and the value of each: ages of users, or first genres of films ("": none is given)."""
        if self.rule == "age":
            users = pa.Table.from_batches(self._users(), schema=pa.schema({**_USERS, "user_id": self.ids.user}))
            return users["user_id"].combine_chunks(), users["age"].combine_chunks()
        return self._movies["item_id"].combine_chunks(), self._movies["first_genre"].combine_chunks()


def _split_lines(path: Path, encoding: str) -> pa.Table:
    """The three `::` fields of movies.dat; titles may hold single colons."""
    with opened(path) as stream:
        try:
            lines = stream.read().decode(encoding).replace("\r\n", "\n").removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            raise wrong_encoding(path, encoding) from error
        except LookupError as error:
            raise DataError(f"data.encoding: {error}", file=path) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        fields = line.split("::")
        if len(fields) != len(_MOVIES):
            raise DataError(f"expected 3 fields with :: between them, got {len(fields)}", file=path, row=number)
        rows.append(fields)
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table({name: pa.array(column, pa.string()) for name, column in zip(_MOVIES, columns, strict=True)})
