import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

import models
from core.contracts.dataset_spec import VectorSpec
from core.errors import BundleError
from models.data import TrainingData


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    from core.settings import ModelSettings, TrainSettings

    out = tmp_path_factory.mktemp("bundle") / "b"
    settings = ModelSettings(
        hidden=[16], tower=[8], embedding_dim=4, bottleneck=4, rank=3, user_level="low_rank", scenario_level="full"
    )
    models.train(data, settings, TrainSettings(batch_size=256, epochs=3, embedding_learning_rate=0.05), out, name="k")
    return out


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


def test_a_loaded_bundle_reproduces_its_golden_rows(trained):
    bundle = models.load_bundle(trained)
    bundle.check_golden()
    assert bundle.name == "k"
    assert bundle.spec.vectors["user_pooled"] == VectorSpec(dim=8, version="v1")


def test_a_bundle_names_only_the_views_its_model_reads(data, tmp_path):
    from dataclasses import replace

    from core.settings import ModelSettings, TrainSettings

    columns = {"user_stats": ["user_rows"], "user_pooled": ["vector"], "scenario": ["vector"], "item_text": ["vector"]}
    table = replace(data, spec=data.spec.changed(views=columns))
    tiny = {"hidden": [8], "tower": [4], "embedding_dim": 4, "bottleneck": 2}
    models.train(table, models.plain(ModelSettings(**tiny)), TrainSettings(epochs=1), tmp_path / "plain", name="plain")

    spec = models.load_bundle(tmp_path / "plain").spec
    assert spec.views == {"user_stats": ("user_rows",), "item_text": ("vector",)}


def test_a_request_scores_as_the_table_does(data, trained):
    bundle = models.load_bundle(trained)
    table = models.predict(bundle, data, "test", batch_size=100)
    scores = bundle.score(models.request_batch_from_rows(data, data.indices("test")))
    np.testing.assert_allclose(table["score"], scores.probability, rtol=0, atol=1e-6)
    logit = scores.backbone_logit.astype(float) + scores.scenario_logit
    np.testing.assert_allclose(1 / (1 + np.exp(-logit)), scores.probability, atol=1e-6)
    assert table.column_names == ["row_id", "user_id", "item_id", "scenario", "label", "score", "split", "user_rows"]
    assert np.abs(scores.scenario_logit).max() > 0


def test_many_candidates_of_one_user_score_as_each_alone(data, trained):
    bundle, row = models.load_bundle(trained), int(data.indices("test")[3])
    one = models.request_batch_from_rows(data, [row])
    others = models.request_batch_from_rows(data, data.indices("test")[:20])
    keys = others.scenario_key
    many = models.RequestBatch(
        scenario=others.scenario,
        user=one.user,
        user_index=np.zeros(20, np.int64),
        history=one.history,
        item=others.item,
        user_vectors=one.user_vectors,
        item_text=others.item_text,
        scenario_vectors=others.scenario_vectors,
        scenario_key=keys,
    )
    together = bundle.score(many).probability
    for place in range(20):
        alone = models.RequestBatch(
            scenario=[others.scenario[place]],
            user=one.user,
            user_index=np.zeros(1, np.int64),
            history=one.history,
            item={name: values[place : place + 1] for name, values in others.item.items()},
            user_vectors=one.user_vectors,
            item_text=others.item_text[place : place + 1],
            scenario_vectors=others.scenario_vectors,
            scenario_key=[keys[place]],
        )
        np.testing.assert_allclose(bundle.score(alone).probability[0], together[place], rtol=0, atol=1e-6)


def test_knowledge_and_history_change_the_score_and_may_be_absent(data, trained):
    bundle = models.load_bundle(trained)
    batch = models.request_batch_from_rows(data, data.indices("test")[:50])
    before = bundle.score(batch).probability
    for change in ({"user_vectors": {}}, {"item_text": None}, {"scenario_vectors": {}}, {"history": [[]] * 50}):
        changed = models.RequestBatch(**{**batch.__dict__, **change})
        after = bundle.score(changed).probability
        assert np.isfinite(after).all()
        assert (after != before).any(), change


def test_an_absent_vector_scores_as_an_unknown_one(data, trained):
    bundle = models.load_bundle(trained)
    batch = models.request_batch_from_rows(data, data.indices("test")[:10])
    nan = {"user_pooled": np.full((10, 8), np.nan, np.float32)}
    none = bundle.score(models.RequestBatch(**{**batch.__dict__, "user_vectors": {"user_pooled": None}}))
    unknown = bundle.score(models.RequestBatch(**{**batch.__dict__, "user_vectors": nan}))
    np.testing.assert_array_equal(none.probability, unknown.probability)


@pytest.mark.parametrize("name", ["weights.safetensors", "spec.json", "golden.json", "vocabulary/item_id.parquet"])
def test_an_altered_file_is_named(copy, name):
    body = bytearray((copy / name).read_bytes())
    body[len(body) // 2] ^= 1
    (copy / name).write_bytes(body)
    with pytest.raises(BundleError, match=name):
        models.load_bundle(copy)


def test_a_missing_or_added_file_is_named(copy):
    (copy / "extra.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"extra\.bin"):
        models.load_bundle(copy)
    (copy / "extra.bin").unlink()
    (copy / "metrics.json").unlink()
    with pytest.raises(BundleError, match=r"metrics\.json"):
        models.load_bundle(copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(BundleError, match="not a bundle"):
        models.load_bundle(copy)


def test_golden_rows_that_no_longer_fit_are_refused(copy):
    bundle = models.load_bundle(copy)
    golden = json.loads((copy / "golden.json").read_text())
    golden["scores"]["probability"][0] += 1e-3
    (copy / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(BundleError, match="probability"):
        bundle.check_golden()


def test_a_bundle_of_string_ids_round_trips(string_data, tmp_path, model, settings):
    models.train(string_data, model, settings.model_copy(update={"epochs": 1}), tmp_path / "b", name="s")
    bundle = models.load_bundle(tmp_path / "b")
    bundle.check_golden()
    rows = string_data.indices("test")
    scores = bundle.score(models.request_batch_from_rows(string_data, rows)).probability
    np.testing.assert_allclose(models.predict(bundle, string_data, "test")["score"], scores, rtol=0, atol=1e-6)


def test_predict_scores_rows_of_users_it_has_never_seen(data, trained):
    rows = data.rows.set_column(data.rows.schema.get_field_index("user_id"), "user_id", pa.array([10**9] * 3000))
    table = models.predict(
        models.load_bundle(trained), TrainingData(rows, data.user_log, data.vectors, data.spec), "test"
    )
    assert np.isfinite(table["score"].to_numpy()).all()
