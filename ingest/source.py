"""The seam of this room: what a raw source hands over. A new source is one class with these members."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from core.errors import DataError, SettingsError
from core.settings import DataSettings, LabelRule
from core.tables import IdTypes
from core.window import Window

# What the scenario rule maps: of a row one value, of an item a list. No file has columns of these names.
VALUE, VALUES = "\0value", "\0values"


@dataclass
class PassedOver:
    """Rows of the log that were not read, since their file says that they lie outside the window.

    Attributes:
        rows: how many.
        edges: oldest and newest times of each part of a file, microseconds.
    """

    rows: int = 0
    edges: list[int] = field(default_factory=list)


class Source(ABC):
    """A raw log, its users and its items, as streams of Arrow record batches.

    Interactions come in the source's own order with the columns `user_id`, `item_id`, `event_timestamp`
    (`core.tables.TIMESTAMP`), `VALUE` (string: what the scenario rule maps to a scenario), the column that the label
    rule reads, that of the grade where the settings name one, and optionally `weight`. Cells may be null: judging rows
    is the next room's task.

    Args:
        data: the settings' `data` section.
    """

    rules: ClassVar[tuple[str, ...]]
    """Scenario rules the source can follow; the first is its default."""

    def __init__(self, data: DataSettings) -> None:
        self.data, self.passed_over = data, PassedOver()
        self.rule = data.scenario.rule if "rule" in data.scenario.model_fields_set else self.rules[0]
        if self.rule not in self.rules:
            raise SettingsError(
                f"data.scenario.rule {self.rule!r} does not fit source {data.source!r} here; "
                f"it can follow: {', '.join(self.rules)}"
            )

    @property
    @abstractmethod
    def ids(self) -> IdTypes:
        """The ids' types as the source has them."""

    @property
    @abstractmethod
    def user_columns(self) -> Mapping[str, pa.DataType]:
        """Columns of `users` beside id and times."""

    @property
    @abstractmethod
    def item_columns(self) -> Mapping[str, pa.DataType]:
        """Columns of `items` beside id, times, title and scenarios."""

    @property
    def label(self) -> LabelRule:
        """The rule that makes the label."""
        return self.data.label

    @property
    def grade(self) -> str | None:
        """The column of the interactions that is the grade, where one is asked for."""
        return self.data.grade

    @abstractmethod
    def files(self) -> list[Path]:
        """All files read.

        Raises:
            DataError: one is missing.
        """

    def notes(self) -> list[str]:
        """What a person should know of the files: how many are read, and what lies among them and is not."""
        return []

    @abstractmethod
    def interactions(self, window: Window | None = None) -> Iterator[pa.RecordBatch]:
        """The log, in the order of the source.

        Args:
            window: rows outside it may be left out where their file tells their times; what is left out goes into
                `passed_over`.
        """

    @abstractmethod
    def users(self) -> Iterator[pa.RecordBatch] | None:
        """`user_id`, the user columns, optionally `event_timestamp`; None: the source says nothing but the id."""

    @abstractmethod
    def items(self) -> Iterator[pa.RecordBatch] | None:
        """`item_id`, `title`, the item columns, optionally `event_timestamp` and `VALUES` (list of string: what the
        scenario rule maps to the scenarios an item can be shown in). None: the source says nothing but the id.
        """

    def values(self) -> list[str]:
        """Scenario values known without reading the log, in order; without groups each is a scenario."""
        return []

    def describe(self, values: list[str]) -> str:
        """A default sentence for the scenario made of `values` (empty: of all other values)."""
        return f"Requests of kind {', '.join(values)}." if values else "All other requests."


def declared_ids(data: DataSettings, own: IdTypes) -> IdTypes:
    """The ids' types as `data.ids` says, else the source's own."""
    asked = {"auto": None, "string": pa.string(), "integer": pa.int64()}
    return IdTypes(asked[data.ids_of("user")] or own.user, asked[data.ids_of("item")] or own.item)


def existing(path: Path, hint: str) -> Path:
    """`path`, if it is a file.

    Raises:
        DataError: it is not; `hint` says what to do.
    """
    if not path.is_file():
        raise DataError(f"this file does not exist; {hint}", file=path)
    return path
