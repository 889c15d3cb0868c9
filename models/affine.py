"""Rows that differ in a few columns only, and have not been made yet: x = L(c + z S), for one user's candidates.

z [B, m] are the columns of the items, c is the same in all rows, and L is what the user's level generated: an affine map. A
linear layer over x is then one over z, (S L W) with a bias of its own, both made once per request. Whatever else is done with
the rows makes them. D is the width of x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from models.kernels import multiply
from models.meta import Generated, MetaLayer, MetaStack


class Frame:
    """What all rows of a request have in common.

    Args:
        rest: c, [1, D]; zero in the items' own columns.
        own: the items' own columns of x, in order of z, int64 [m].
        layer: the user's level; None: x is as it is assembled.
        generated: what it generated for this user.
    """

    def __init__(self, rest: Tensor, own: Tensor, layer: MetaLayer | MetaStack | None, generated: Generated) -> None:
        self.rest, self._own, self._layer, self._generated = rest, own, layer, generated
        self._index = torch.zeros(1, dtype=torch.int64)
        self._moved = self._through(rest)
        # The weight is held too, so that no other can come to lie where it did.
        self._folded: dict[tuple[int, ...], tuple[Tensor, Tensor, Tensor]] = {}

    def rows(self, z: Tensor) -> Tensor:
        """The rows themselves, [B, m] -> [B, D]."""
        return self._through(self.rest.repeat(len(z), 1).index_copy_(1, self._own, z))

    def fold(self, weight: Tensor) -> tuple[Tensor, Tensor] | None:
        """S L W [m, out] and c' W [out], for W [D, out]; None where L is no affine map."""
        key = (weight.data_ptr(), *weight.shape, *weight.stride())
        if (made := self._folded.get(key)) is None:
            mapped = weight
            if self._layer is not None:
                if isinstance(self._layer, MetaStack):
                    return None
                mapped = self._layer.compose(self._generated, weight)
            moved = (self._moved @ weight).squeeze(0)
            made = self._folded[key] = (mapped.index_select(0, self._own), moved, weight)
        return made[0], made[1]

    def _through(self, x: Tensor) -> Tensor:
        return x if self._layer is None else self._layer.apply_to(x, self._generated, self._index)


class Later:
    """A tensor that is made when it is first read.

    Args:
        make: makes it.
    """

    def __init__(self, make: Callable[[], Tensor]) -> None:
        self._make = make
        self._whole: Tensor | None = None

    @property
    def whole(self) -> Tensor:
        """The tensor."""
        if self._whole is None:
            self._whole = self._make()
        return self._whole

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, key: Any) -> Tensor:
        return self.whole[key]

    def __mul__(self, other: Tensor) -> Tensor:
        return self.whole * other

    def __add__(self, other: Tensor) -> Tensor:
        return self.whole + other

    def __matmul__(self, other: Tensor) -> Tensor:
        return self.whole @ other

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return function(*map(_made, args), **{name: _made(value) for name, value in (kwargs or {}).items()})


class AffineRows(Later):
    """Some rows of a frame, [B, D]: made where more than a linear layer reads them.

    Args:
        frame: of the request.
        z: the items' own columns, [B, m].
    """

    def __init__(self, frame: Frame, z: Tensor) -> None:
        super().__init__(lambda: frame.rows(z))
        self._frame, self._z = frame, z

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self._z), self._frame.rest.shape[1]))

    def dim(self) -> int:
        """As of a tensor."""
        return 2

    def linear(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`x W + b` with W [D, out]."""
        if (folded := self._frame.fold(weight)) is None:
            return self.whole @ weight if bias is None else torch.addmm(bias, self.whole, weight)
        own, shift = folded
        return multiply(self._z, own, shift if bias is None else shift + bias)

    def __len__(self) -> int:
        return len(self._z)

    def __matmul__(self, other: Tensor) -> Tensor:
        return self.linear(other, None) if other.dim() == 2 else self.whole @ other

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Linear layers by the columns of the items; all else on the rows."""
        if function is functional.linear and not kwargs:
            x, weight, *bias = args
            if isinstance(x, cls) and isinstance(weight, Tensor):
                return x.linear(weight.t(), bias[0] if bias else None)
        if function is torch.addmm and not kwargs and isinstance(args[1], cls):
            bias, x, weight = args
            if isinstance(bias, Tensor) and isinstance(weight, Tensor) and bias.dim() == 1:
                return x.linear(weight, bias)
        return super().__torch_function__(function, types, args, kwargs)


def _made(value: Any) -> Any:
    if isinstance(value, Later):
        return value.whole
    return [_made(one) for one in value] if isinstance(value, (list, tuple)) else value
