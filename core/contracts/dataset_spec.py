"""`spec.json` of a training table: what models and serving need to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from core.contracts.contract import Part, SpecFile
from core.errors import DataError, Llm4msrError


class VectorSpec(BaseModel):
    """A kind of vectors in a table: their width and their version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int
    version: str


class SplitRule(Part):
    """How rows from the start of training on are split, see `core.splits`.

    Attributes:
        kind: `time`: one cut for all; `per_user_tail`: each user's last rows.
        validation, test: shares of the rows.
    """

    kind: Literal["per_user_tail", "time"]
    validation: float
    test: float


class FeatureSpec(SpecFile):
    """What a training table and a bundle both say of features.

    Attributes:
        user_categorical, user_dense, item_categorical, item_dense: declared columns, in order.
        scenarios: all there are, in order.
        history_length: newest positives in the history bag.
        prior_rate: positive rate of what was never seen.
        vectors: view of a kind of knowledge to its vectors, see `core.contracts.kinds`.
        views: unversioned view of the feature store to the columns that are read of it.
        service: the feature service for online use.
        id_types: `user_id` and `item_id` to int64 or string.
        train_start: where training starts, microseconds.
        negatives: how negatives were drawn; none: the log has them.
    """

    user_categorical: tuple[str, ...]
    user_dense: tuple[str, ...]
    item_categorical: tuple[str, ...]
    item_dense: tuple[str, ...]
    scenarios: tuple[str, ...]
    history_length: int
    prior_rate: float
    vectors: Mapping[str, VectorSpec]
    views: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    service: str | None = None
    id_types: Mapping[Literal["user_id", "item_id"], str] = Field(default_factory=dict)
    train_start: int | None = None
    negatives: Mapping[str, Any] | None = None

    @property
    def versions(self) -> dict[str, str]:
        """View to the version of its vectors."""
        return {view: found.version for view, found in self.vectors.items()}

    def columns(self, side: Literal["user", "item"]) -> tuple[str, ...]:
        """The declared columns of users or items."""
        if side == "user":
            return (*self.user_categorical, *self.user_dense)
        return (*self.item_categorical, *self.item_dense)

    def has_text_ids(self, key: Literal["user_id", "item_id"]) -> bool:
        """Whether ids are texts, not numbers."""
        return self.id_types.get(key) == "string"


class DatasetSpec(FeatureSpec):
    """Of a training table.

    Attributes:
        prior_weight: how many rows the prior counted for.
        generation: what the feature store joined; only `feature_repo` reads it.
        split: how its rows are split; none: they say it themselves, in a column `split`.
        start: earlier rows are there and do not count, microseconds; none: all do.
    """

    REMAKE: ClassVar[str] = "run `llm4msr dataset` again"
    ERROR: ClassVar[type[Llm4msrError]] = DataError

    prior_weight: float = 0.0
    generation: Mapping[str, Any] = Field(default_factory=dict)
    split: SplitRule | None = None
    start: int | None = None

    def changed(self, **fields: Any) -> Self:
        """The spec with other fields, checked."""
        return type(self).model_validate(self.model_dump() | fields)

    def without_vectors(self, *views: str) -> Self:
        """The spec without some kinds of vectors."""
        return self.changed(vectors={view: spec for view, spec in self.vectors.items() if view not in views})
