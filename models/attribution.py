"""Why a row has its logit: additive parts by integrated gradients (Sundararajan, Taly and Yan, 2017, section 3).

    part of input i  =  (x_i - x'_i) * integral over t in [0, 1] of the logit's derivative by x_i at x' + t (x - x')

x' is the start: an unknown user and an unknown item of average numbers, without text, history and knowledge, in the same scenario.
The parts and the start's own logit add up to the row's. The path stays among inputs that training has seen the ends of: unknown ids,
neutral vectors and standardised zeros. A backbone that jumps along the path (AdaptDHM gives a row to its nearest cluster) leaves a gap
between the parts' sum and the logit, which is spread over them by their size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.bundle import Bundle
from models.data import RequestBatch
from models.inputs import HISTORY, Bags, Layout, Side

# Points of the path, Gauss-Legendre: a part of a real model is then off by less than a hundredth of the largest one.
POINTS = 48


@dataclass(frozen=True)
class Feature:
    """One input of the model and what it adds to the logit.

    Attributes:
        part: `user`, `user_numbers`, `history`, `user_knowledge`, `scenario_knowledge`, `item`, `item_numbers` or `item_text`.
        name: a column, or a kind of vector.
        logit: what it adds; all features and the start sum to the row's logit.
    """

    part: str
    name: str
    logit: float


@dataclass(frozen=True)
class Attribution:
    """What one row's logit is made of.

    Attributes:
        logit: the row's.
        start: that of the start.
        features: every input.
        history: what each item of the history adds, oldest first, as the encoder cuts it; they sum to the feature `history`.
        gap: how much the integral itself was off the difference; spread over the features already.
    """

    logit: float
    start: float
    features: list[Feature]
    history: list[float]
    gap: float

    @property
    def parts(self) -> dict[str, float]:
        """Part to what it adds, in the order of the features; the start is not among them."""
        found: dict[str, float] = {}
        for feature in self.features:
            found[feature.part] = found.get(feature.part, 0.0) + feature.logit
        return found


def attribute(bundle: Bundle, batch: RequestBatch, points: int = POINTS) -> Attribution:
    """Take the logit of the one row of a request apart.

    Args:
        bundle: the model.
        batch: a request of one candidate of one user.
        points: of the path at which the derivative is taken.

    Raises:
        DataError: a scenario the model does not know.
    """
    layout, head = bundle.encoder.layout, bundle.head
    with torch.no_grad():
        bags, scenario = bundle.encoder.request_bags(batch)
        side = bundle.encoder.request_side(batch, scenario)
        ends = _Inputs.of(bundle, bags, side, batch.user_index)
        starts = _Inputs.start(bundle, bags, side, batch.user_index)
    nodes, weights = np.polynomial.legendre.leggauss(points)
    # Both ends come last, and weigh nothing.
    path = torch.from_numpy(np.concatenate(((nodes + 1) / 2, [0.0, 1.0]))).float()[:, None]
    weigh = torch.from_numpy(np.concatenate((weights / 2, [0.0, 0.0]))).float()
    on_path = [(a + path * (b - a)).requires_grad_() for a, b in zip(starts.tensors, ends.tensors, strict=True)]
    logits = head(*_Inputs(on_path).read_by(layout, side, len(path))).logit
    slopes = torch.autograd.grad(logits.sum(), on_path, allow_unused=True)
    mean = [torch.zeros_like(end[0]) if s is None else weigh @ s for s, end in zip(slopes, ends.tensors, strict=True)]
    moved = [((b - a)[0] * m).double() for a, b, m in zip(starts.tensors, ends.tensors, mean, strict=True)]
    start, logit = (float(one) for one in logits.detach()[-2:])
    found = list(_features(bundle, moved))
    values = np.array([feature.logit for feature in found])
    gap = logit - start - float(values.sum())
    size = float(np.abs(values).sum())
    values += gap * (np.abs(values) / size if size else 1 / max(len(values), 1))
    features = [Feature(f.part, f.name, float(v)) for f, v in zip(found, values, strict=True)]
    return Attribution(logit, start, features, _history(bundle, bags, mean[0], features), gap)


@dataclass(frozen=True)
class _Inputs:
    """What the head reads, all known: embeddings [n, F d], numbers [n, D], each kind of user vector, the scenario's vector, the
    item's text.
    """

    tensors: list[Tensor]

    @classmethod
    def of(cls, bundle: Bundle, bags: Bags, side: Side, index: np.ndarray) -> _Inputs:
        """Those of a row."""
        head = bundle.head
        scenario = side.scenario_vectors
        if head.scenario_code is not None:
            scenario = head.scenario_neutral(side.scenario_vectors, side.scenario_known)
        text = side.item_vectors if head.item_neutral is None else head.item_neutral(side.item_vectors, side.item_known)
        users = head.users(side.user_vectors, side.user_known)
        return cls([bundle.tables(bags, index), side.dense, *users, scenario, text])

    @classmethod
    def start(cls, bundle: Bundle, bags: Bags, side: Side, index: np.ndarray) -> _Inputs:
        """Those of the start."""
        nothing = Bags(
            np.zeros_like(bags.user),
            np.zeros_like(bags.item),
            bags.scenario,
            bags.history[:0],
            np.zeros_like(bags.lengths),
        )
        nobody = side._replace(
            dense=torch.zeros_like(side.dense),
            user_known=tuple(map(torch.zeros_like, side.user_known)),
            scenario_known=torch.zeros_like(side.scenario_known),
            item_known=torch.zeros_like(side.item_known),
        )
        return cls.of(bundle, nothing, nobody, index)

    def read_by(self, layout: Layout, side: Side, count: int) -> tuple[Tensor, Side]:
        """As the head's arguments, `count` rows."""
        embedded, dense, *users, scenario, text = self.tensors
        rows, known = torch.arange(count), torch.ones(count, 1)
        return embedded, Side(
            dense,
            side.scenario.expand(count),
            rows,
            tuple(users),
            (known,) * len(users),
            rows,
            scenario,
            known,
            text,
            known,
        )


def _features(bundle: Bundle, moved: list[Tensor]) -> Iterator[Feature]:
    """Every input with what it adds, before the gap is spread."""
    encoder, dim = bundle.encoder, bundle.tables.dim
    layout = encoder.layout
    embedded, dense, *users, scenario, text = moved
    for name, share in zip(layout.features, embedded.view(-1, dim).sum(dim=1).tolist(), strict=True):
        part = HISTORY if name == HISTORY else "user" if name in layout.user else "item"
        if part != "item" or name in layout.item:  # the scenario is the start's own
            yield Feature(part, name, share)
    numbers = [("user_numbers", one) for one in encoder.user_dense] + [
        ("item_numbers", one) for one in encoder.item_dense
    ]
    for (part, number), share in zip(numbers, dense.tolist(), strict=True):
        yield Feature(part, number.name, share)
    for kind, share in zip(layout.user_vectors, users, strict=True):
        yield Feature("user_knowledge", kind, float(share.sum()))
    if bundle.head.scenario_code is not None:
        yield Feature("scenario_knowledge", "scenario", float(scenario.sum()))
    if layout.item_dim:
        yield Feature("item_text", "item_text", float(text.sum()))


def _history(bundle: Bundle, bags: Bags, slope: Tensor, features: list[Feature]) -> list[float]:
    """The history's share by item: the bag is their mean, so that each adds its own product with the mean slope."""
    layout, dim = bundle.encoder.layout, bundle.tables.dim
    whole = next((feature.logit for feature in features if feature.part == HISTORY), 0.0)
    if not layout.history or not len(bags.history):
        return []
    place = layout.features.index(HISTORY)
    rows = bundle.tables.item_weight[torch.from_numpy(bags.history)]
    shares = (rows @ slope[place * dim : (place + 1) * dim]).double().numpy() / len(bags.history)
    gap = whole - float(shares.sum())
    size = float(np.abs(shares).sum())
    return [float(v) for v in shares + gap * (np.abs(shares) / size if size else 1 / len(shares))]
