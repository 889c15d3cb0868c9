"""A logit taken apart: the parts sum to it, whatever the model, and what is not there adds nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from unit.models.test_backbones import NAMES

import models
from models.data import RequestBatch


def rows_of(data, count=3):
    return [models.request_batch_from_rows(data, [int(row)]) for row in data.indices("test")[:count]]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, {}) for name in NAMES),
        ("shared_bottom", {"second_order": "fm"}),
        ("shared_bottom", {"second_order": "dcn_v2"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value.values()),
)
def test_parts_sum_to_the_logit_of_every_model(data, tmp_path, model, settings, name, more):
    levels = {"user_level": "low_rank", "scenario_level": "gate", "knowledge_features": True}
    models.train(
        data, model.model_copy(update={"backbone": name, **levels, **more}), settings, tmp_path / "b", name="k"
    )
    bundle = models.load_bundle(tmp_path / "b")
    for batch in rows_of(data):
        found, scores = models.attribute(bundle, batch), bundle.score(batch)
        logit = float(scores.backbone_logit[0]) + float(scores.scenario_logit[0])
        assert found.logit == pytest.approx(logit, abs=1e-5)
        assert found.start + sum(found.parts.values()) == pytest.approx(logit, abs=1e-5)
        # It gives a row to the nearest cluster: its logit jumps along the path, and a jump has no slope.
        assert name == "adaptdhm" or abs(found.gap) < 0.1 * sum(abs(feature.logit) for feature in found.features) + 1e-4


@pytest.fixture(scope="module")
def bundle(data, tmp_path_factory):
    from core.settings import ModelSettings, TrainSettings

    tiny = ModelSettings(
        hidden=[16], tower=[8], embedding_dim=4, bottleneck=4, user_level="gate", scenario_level="gate"
    )
    out = tmp_path_factory.mktemp("attribution") / "b"
    models.train(data, tiny, TrainSettings(batch_size=256, epochs=3, embedding_learning_rate=0.05), out, name="k")
    return models.load_bundle(out)


def nobody(bundle, batch: RequestBatch) -> RequestBatch:
    """The same scenario, with a user and an item of whom nothing is known."""
    unknown = {key: [None] for key in batch.user}
    vectors: dict[str, np.ndarray | None] = dict.fromkeys(batch.user_vectors)
    return replace(
        batch,
        user=unknown,
        history=[[]],
        item={key: [None] for key in batch.item},
        user_vectors=vectors,
        item_text=np.full_like(batch.item_text, np.nan),
        scenario_vectors={},
    )


def test_what_is_not_known_adds_nothing(data, bundle):
    found = models.attribute(bundle, nobody(bundle, rows_of(data)[0]))
    parts = found.parts
    assert {name for name, logit in parts.items() if abs(logit) > 1e-6} <= {"user_numbers", "item_numbers"}
    assert found.history == []


def test_a_change_of_one_input_shows_in_its_own_part_most(data, bundle):
    batch = rows_of(data)[0]
    without = replace(batch, item_text=np.full_like(batch.item_text, np.nan))
    one, other = models.attribute(bundle, batch), models.attribute(bundle, without)
    moved = {part: abs(one.parts[part] - other.parts[part]) for part in one.parts}
    assert max(moved, key=lambda part: moved[part]) == "item_text" and other.parts["item_text"] == pytest.approx(
        0, abs=1e-6
    )


def test_the_history_is_split_into_its_items(data, bundle):
    batch = next(
        one
        for one in (models.request_batch_from_rows(data, [int(r)]) for r in data.indices("test"))
        if len(one.history[0]) > 2
    )
    found = models.attribute(bundle, batch)
    assert len(found.history) == len(batch.history[0][-bundle.encoder.history_length :])
    assert sum(found.history) == pytest.approx(found.parts["history"], abs=1e-6)


def test_more_points_leave_a_smaller_gap(data, bundle):
    gaps = {n: sum(abs(models.attribute(bundle, batch, n).gap) for batch in rows_of(data, 8)) for n in (2, 48)}
    assert gaps[48] < gaps[2]
