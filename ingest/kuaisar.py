"""KuaiSAR and KuaiSAR-small (CC BY-NC-SA 4.0): one person's searches and recommendations, joined by user.

Sun et al. 2023, doi 10.1145/3583780.3615123. Both scenarios hold all users. Times are the Unix milliseconds; the
readable columns beside them are Beijing time and are not read. Play time, likes and other outcomes of a row are not
read either.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from core.settings import CsvDialect, LabelRule
from core.tables import IdTypes
from core.window import Window
from ingest.delimited import Delimited
from ingest.source import VALUE, Source, declared_ids, existing
from ingest.values import Values


@dataclass(frozen=True)
class _Log:
    scenario: str
    file: str
    time: str
    clicks: str


_LOGS = (
    _Log("rec", "rec_inter.csv", "timestamp", "click"),
    _Log("search", "src_inter.csv", "search_session_timestamp", "click_cnt"),
)
_DIALECT = CsvDialect(delimiter=",", quote='"', escape="none")
_SENTENCES = {
    "rec": "Short videos that the app recommends one after the other, without a query.",
    "search": "Results that are shown for a query the user typed or tapped.",
}
_LEVELS = ("first", "second", "third", "fourth")
_NAMES = tuple(f"{level}_level_category_name_en" for level in _LEVELS)
_USER = ("onehot_feat1", "onehot_feat2")
# Active days within a month that may overlap the newest rows: a possible leak, read only where the settings ask for it.
_ACTIVITY = ("search_active_level", "rec_active_level")
_ITEM = ("author_id", "item_type", "upload_type", *(f"{level}_level_category_id" for level in _LEVELS))


class KuaiSar(Source):
    """Videos recommended and results searched; a click is positive (`click`, or `click_cnt` of a search, above 0)."""

    rules = ("source",)

    @property
    def ids(self) -> IdTypes:
        return declared_ids(self.data, IdTypes(pa.int64(), pa.int64()))

    @property
    def label(self) -> LabelRule:
        """Fixed by the source: the settings' rule is not used."""
        return LabelRule(column="click", op=">", value=0)

    @property
    def user_columns(self) -> Mapping[str, pa.DataType]:
        dense = set(self.data.user_dense)
        asked = [name for name in _ACTIVITY if name in dense or name in self.data.user_categorical]
        return {name: pa.float64() if name in dense else pa.string() for name in (*_USER, *asked)}

    @property
    def item_columns(self) -> Mapping[str, pa.DataType]:
        return dict.fromkeys(_ITEM, pa.string())

    def files(self) -> list[Path]:
        names = (*(log.file for log in _LOGS), "user_features.csv", "item_features.csv")
        hint = "data.path must be the folder with rec_inter.csv, src_inter.csv, user_features.csv and item_features.csv"
        return [existing(self.data.path / name, hint) for name in names]

    def interactions(self, window: Window | None = None) -> Iterator[pa.RecordBatch]:
        for log in _LOGS:
            file, values = self._file(log.file), Values(self.data)
            place = file.place()
            columns = ("user_id", "item_id", log.time, log.clicks)
            for batch in file.read(dict.fromkeys(columns, pa.string())):
                user, item, time, clicks = batch.columns
                yield pa.RecordBatch.from_pydict(
                    {
                        "user_id": values.ids(user, self.ids.user, place.at("user_id")),
                        "item_id": values.ids(item, self.ids.item, place.at("item_id")),
                        "event_timestamp": values.times(time, place.at(log.time), "ms"),
                        "click": values.outcomes(clicks, self.label, place.at(log.clicks)),
                        VALUE: pa.repeat(pa.scalar(log.scenario), batch.num_rows),
                    }
                )
                place = place.after(batch.num_rows)

    def users(self) -> Iterator[pa.RecordBatch]:
        return self._read("user_features.csv", {"user_id": self.ids.user, **self.user_columns})

    def items(self) -> Iterator[pa.RecordBatch]:
        kinds = {"item_id": self.ids.item, **self.item_columns, **dict.fromkeys(_NAMES, pa.string())}
        for batch in self._read("item_features.csv", kinds):
            yield batch.append_column("title", _title([batch[name] for name in _NAMES]))

    def _file(self, name: str) -> Delimited:
        return Delimited.find(self.data.path / name, self.data.csv.or_else(_DIALECT), encoding=self.data.encoding)

    def _read(self, name: str, kinds: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        file, values = self._file(name), Values(self.data)
        place = file.place()
        for batch in file.read(dict.fromkeys(kinds, pa.string())):
            yield values.read(batch, kinds, place)
            place = place.after(batch.num_rows)

    def values(self) -> list[str]:
        return [log.scenario for log in _LOGS]

    def describe(self, values: list[str]) -> str:
        return " ".join(_SENTENCES.get(value, f"Videos of {value}.") for value in values) or "All other videos."


def _title(names: list[pa.Array]) -> pa.Array:
    """The English category names from coarse to fine, e.g. `Funny > Funny joke`; null where there is none.

    Captions are anonymous token ids, so this is all the text an item has.
    """
    known = [pc.if_else(pc.is_in(name, pa.array(["empty", "", "UNKNOWN"])), None, name) for name in names]
    # Two at a time: with null_handling="skip" pyarrow drops the rows in which all are null.
    return functools.reduce(
        lambda left, right: pc.coalesce(pc.binary_join_element_wise(left, right, " > "), left, right), known
    )
