"""Items that were prepared ahead of a request score as the same rows of a training table do, whatever the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core.settings import ModelSettings
from models.affine import AffineRows, Frame
from models.backbones import BACKBONES
from models.backbones.layers import ExpertLinear, Groups, ScenarioLinear
from models.data import RequestBatch, request_batch_from_rows
from models.encoder import Encoder
from models.fused import FusedTables, table_rows
from models.kernels import MANY_ROWS, Linear
from models.prepared import BLOCK, ItemScorer
from models.ranker import Head

LEVELS = ["none", "gate", "low_rank", "full"]
SIZES = {"hidden": [8], "tower": [4], "embedding_dim": 4, "bottleneck": 4, "rank": 3}


def make_model(data, **settings):
    """An encoder fitted on a dataset, and a ranker of random weights."""
    torch.manual_seed(0)
    model = ModelSettings(**{**SIZES, **settings})
    reads = model.user_level != "none" or model.knowledge_features
    encoder = Encoder.fit(
        data, user_vectors=["user_pooled"] if reads else [], scenario_vectors=model.scenario_level != "none"
    )
    head = Head(model, encoder.layout).eval().requires_grad_(False)
    for value in [*head.parameters(), head.slope, head.shift]:
        torch.nn.init.normal_(value, std=0.4)
    head.slope.add_(1.0)
    tables = FusedTables(encoder.layout, {n: torch.randn(rows, 4) for n, rows in table_rows(encoder.layout).items()})
    return encoder, tables.eval(), head


def request_of(data, rows: np.ndarray) -> RequestBatch:
    """The first row's user, in the first row's scenario, with the items of all rows."""
    one, all_rows = request_batch_from_rows(data, rows[:1]), request_batch_from_rows(data, rows)
    count = len(rows)
    return RequestBatch(
        scenario=one.scenario * count,
        user=one.user,
        user_index=np.zeros(count, np.int64),
        history=one.history,
        item=all_rows.item,
        user_vectors=one.user_vectors,
        item_text=all_rows.item_text,
        scenario_vectors=dict(zip(one.scenario, one.scenario_vectors.values(), strict=False)),
    )


def scored_both_ways(data, model, rows: np.ndarray):
    encoder, tables, head = model
    request = request_of(data, rows)
    scorer = ItemScorer(encoder, tables, head)
    # Sliced and out of order, as candidates are.
    items = scorer.prepare(encoder.encode_items(request.item, request.item_text))
    places = np.random.default_rng(0).permutation(len(rows))
    ahead = scorer.score(items, places, request.scenario[0], request)
    straight = scorer.score(items, np.arange(len(rows)), request.scenario[0], request)
    with torch.inference_mode():
        bags, scenario = encoder.request_bags(request)
        within = head(tables(bags, request.user_index), encoder.request_side(request, scenario))
    return ahead, straight, within, places


def check(data, model, rows: np.ndarray) -> None:
    ahead, straight, within, places = scored_both_ways(data, model, rows)
    assert within.logit.std() > 0.01
    for part in ("backbone", "scenario"):
        expected = getattr(within, part).numpy()
        np.testing.assert_allclose(getattr(straight, part).numpy(), expected, rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(getattr(ahead, part).numpy(), expected[places], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_every_backbone(data, backbone):
    check(data, make_model(data, backbone=backbone, hidden=None, tower=None), data.indices("test")[:50])


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("level", LEVELS)
def test_every_form_of_the_levels(data, level, depth):
    model = make_model(data, user_level=level, scenario_level=level, meta_depth=depth)
    check(data, model, data.indices("test")[:50])


@pytest.mark.parametrize("features", [True, False])
@pytest.mark.parametrize("order", ["none", "fm", "dcn_v2"])
def test_every_second_order(data, order, features):
    level = "gate" if features else "none"
    model = make_model(data, second_order=order, knowledge_features=features, user_level=level)
    check(data, model, data.indices("test")[:50])


def test_more_items_than_a_block(data):
    rows = np.resize(data.indices("test"), BLOCK + MANY_ROWS + 7)
    check(data, make_model(data), rows)


def test_no_items(data):
    encoder, tables, head = make_model(data)
    request = request_of(data, data.indices("test")[:3])
    scorer = ItemScorer(encoder, tables, head)
    items = scorer.prepare(encoder.encode_items(request.item, request.item_text))
    assert len(scorer.score(items, np.zeros(0, np.int64), request.scenario[0], request).logit) == 0


LINEAR = {
    "torch's": lambda x: torch.nn.Linear(3, 2)(x),
    "ours": lambda x: Linear(3, 2)(x),
    "a scenario's": lambda x: ScenarioLinear(2, 3, 2)(x, Groups(torch.ones(2, dtype=torch.int64), 2)),
    "experts'": lambda x: ExpertLinear(4, 3, 2)(x),
    "a product": lambda x: x @ torch.randn(3, 2),
}


@pytest.mark.parametrize("layer", LINEAR)
def test_rows_are_made_only_where_more_than_a_linear_layer_reads_them(layer):
    whole = torch.tensor([[1.0, 5.0, 2.0], [1.0, 7.0, 2.0]])
    rows = AffineRows(Frame(torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([1]), None, ()), whole[:, 1:2])
    found = []
    with torch.inference_mode():
        for x in (rows, whole):
            torch.manual_seed(0)
            found.append(LINEAR[layer](x))
        torch.testing.assert_close(*found)
        assert rows._whole is None
        torch.testing.assert_close(torch.relu(rows), whole)
