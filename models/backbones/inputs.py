"""What every backbone is told and shown. B rows, D wide x, F fields of width k, S scenarios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple, cast

from pydantic import Field
from torch import Tensor

from models.affine import Later
from models.inputs import ITEM_ID, USER_ID, Layout

Count = Annotated[int, Field(ge=1)]
Widths = tuple[Count, ...]
Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Shape:
    """The inputs' widths.

    Args:
        inputs: D.
        scenarios: S.
        fields: F.
        dim: k; the first F * k columns of x are the fields.
        ids: which fields are the user's and the item's id.
    """

    inputs: int
    scenarios: int
    fields: int = 1
    dim: int = 1
    ids: tuple[int, ...] = (0,)

    @classmethod
    def of(cls, layout: Layout, inputs: int, dim: int) -> Shape:
        """The shape of x for a layout; x begins with the embeddings of `layout.features`."""
        ids = tuple(layout.features.index(name) for name in (USER_ID, ITEM_ID))
        return cls(inputs, len(layout.scenarios), len(layout.features), dim, ids)


class Inputs(NamedTuple):
    """What a backbone reads of B rows; all of it lies behind the user level.

    Args:
        x: [B, D].
        scenario: int64 [B].
        fields: [B, F, k], a view of the first columns of x.
    """

    x: Tensor
    scenario: Tensor
    fields: Tensor

    @classmethod
    def of(cls, x: Tensor, scenario: Tensor, shape: Shape) -> Inputs:
        """Cut the fields out of x, once they are read where x is not made yet."""

        def fields() -> Tensor:
            return x[:, : shape.fields * shape.dim].unflatten(1, (shape.fields, shape.dim))

        return cls(x, scenario, fields() if isinstance(x, Tensor) else cast(Tensor, Later(fields)))
