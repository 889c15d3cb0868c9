"""A bundle without some of its users ranks them as strangers, and everybody else as before."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from core.settings import ModelSettings, TrainSettings
from models import forget_in_bundle, load_bundle, train, users_in_bundle
from models.data import request_batch_from_rows

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def bundle(data, tmp_path):
    train(data, ModelSettings(), TrainSettings(epochs=1), tmp_path / "bundle", name="knowledge")
    return tmp_path / "bundle"


def request(data, user):
    rows = np.flatnonzero(np.asarray(data.rows["user_id"].to_pylist()) == user)[:5]
    return request_batch_from_rows(data, rows)


def test_forgotten_users_are_strangers_and_the_others_score_as_before(data, bundle):
    keys = pq.read_table(bundle / "vocabulary" / "user_id.parquet")["key"].to_pylist()
    golden = json.loads((bundle / "golden.json").read_text())["batch"]["user"]["user_id"]
    gone = [golden[0], keys[-1]]
    other = next(key for key in keys if key not in gone)
    before = load_bundle(bundle).score(request(data, other)).probability
    assert users_in_bundle(bundle, gone) == 2
    assert forget_in_bundle(bundle, gone) == 2
    after = load_bundle(bundle)
    after.check_golden()
    np.testing.assert_allclose(after.score(request(data, other)).probability, before, atol=1e-6)
    left = json.loads((bundle / "golden.json").read_text())["batch"]["user"]["user_id"]
    assert not set(gone) & set(left)
    mine, stranger = request(data, gone[0]), request(data, gone[0])
    stranger.user["user_id"] = [10**9] * len(stranger.user["user_id"])
    assert np.array_equal(after.score(mine).probability, after.score(stranger).probability)
    assert forget_in_bundle(bundle, gone) == 0
    assert [path.name for path in bundle.parent.iterdir() if path.name.startswith("bundle")] == ["bundle"]


def test_a_call_that_was_killed_between_its_two_renames_goes_on(bundle):
    key = pq.read_table(bundle / "vocabulary" / "user_id.parquet")["key"][0].as_py()
    shutil.copytree(bundle, bundle.with_name("bundle.forgotten"))
    bundle.rename(bundle.with_name("bundle.forgetting"))
    assert forget_in_bundle(bundle, [key]) == 1
    load_bundle(bundle).check_golden()
