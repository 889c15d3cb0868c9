import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import DataError
from models.data import TrainingData, load_dataset, log_order, request_batch_from_rows
from models.dense import DenseFeature
from models.encoded import distinct
from models.encoder import Encoder
from models.vocabulary import Vocabulary


def fitted(data):
    return Encoder.fit(data, user_vectors=["user_pooled"], scenario_vectors=True)


@pytest.mark.parametrize("keys", [[7, 3, 3, None, 11], ["b", "a", None, "a"]])
def test_vocabulary_gives_one_row_per_key_and_zero_to_the_rest(keys):
    vocabulary = Vocabulary.fit(pa.array(keys))
    known = sorted({key for key in keys if key is not None})
    assert vocabulary.size == len(known) + 1
    assert vocabulary.rows(known).tolist() == list(range(1, len(known) + 1))
    assert vocabulary.rows([None, "zz", 99]).tolist() == [0, 0, 0]
    column = pa.array([*known, None])
    assert vocabulary.encode(column).tolist() == [*range(1, len(known) + 1), 0]


def test_vocabulary_finds_integer_arrays():
    vocabulary = Vocabulary.fit(pa.array([5, 9, 2]))
    assert vocabulary.rows(np.array([2, 9, 4, 100])).tolist() == [1, 3, 0, 0]
    assert Vocabulary.fit(pa.array([], pa.int64())).rows(np.array([2])).tolist() == [0]


def test_vocabulary_reads_numbers_written_as_text():
    assert Vocabulary.fit(pa.array([5, 9])).rows(["9", "x"]).tolist() == [2, 0]
    assert Vocabulary.fit(pa.array(["5", "9"])).rows([9, 7]).tolist() == [2, 0]


def test_vocabularies_hold_training_rows_only(data):
    encoder = fitted(data)
    train = data.rows.take(pa.array(data.indices("train")))
    assert encoder.vocabularies["user_id"].size == len(train.column("user_id").unique()) + 1
    keep = pa.array(np.flatnonzero(np.asarray(train.column("user_id")) != 5))
    other = TrainingData(train.take(keep), data.user_log, data.vectors, data.spec)
    assert fitted(other).vocabularies["user_id"].rows([5]).tolist() == [0]


def test_dense_features_are_standardised_on_training_rows(data):
    encoder = fitted(data)
    dense = encoder.encode(data).dense[data.indices("train")]
    np.testing.assert_allclose(dense.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(dense.std(0), 1, atol=1e-4)


def test_missing_counts_are_zero_and_missing_rates_the_prior(data):
    encoder = fitted(data)
    by_name = {feature.name: feature for feature in (*encoder.user_dense, *encoder.item_dense)}
    for name, value in {"user_rows": 0.0, "user_rate": 0.5}.items():
        missing, given = by_name[name].encode(np.array([np.nan])), by_name[name].encode(np.array([value]))
        assert missing == given
    assert abs(by_name["year"].encode(np.array([np.nan]))[0]) < 1e-9


def test_counts_are_taken_as_logarithms():
    feature = DenseFeature("user_rows", True, 0.0, 0.0, 1.0)
    assert feature.encode(np.array([np.e - 1]))[0] == pytest.approx(1.0)


def test_history_bag_is_the_newest_positives_before_the_row(data):
    encoder = fitted(data)
    encoded = encoder.encode(data)
    index = np.arange(data.rows.num_rows)
    bags = encoded.bags(index)
    starts = np.concatenate(([0], np.cumsum(bags.lengths)))
    seen = {}
    users, items, labels = (data.rows.column(n).to_pylist() for n in ("user_id", "item_id", "label"))
    for row in index:
        expected = seen.setdefault(users[row], [])[-5:]
        found = bags.history[starts[row] : starts[row + 1]].tolist()
        assert found == encoder.vocabularies["item_id"].rows(expected).tolist()
        if labels[row]:
            seen[users[row]].append(items[row])


def test_history_can_be_hidden_up_to_a_position(data):
    ends = data.rows.column("history_end").fill_null(0).to_numpy()
    begin = np.minimum(np.arange(len(ends)) % 3, ends)
    rows = data.rows.append_column("history_begin", pa.array(begin))
    encoder = fitted(data)
    all_rows, index = encoder.encode(data), np.arange(data.rows.num_rows)
    some = encoder.encode(replace(data, rows=rows))
    expected = np.minimum(ends - begin, 5)
    assert (some.bags(index).lengths == expected).all()
    assert (some.end == all_rows.end).all()
    wanted = [len(items) for items in request_batch_from_rows(replace(data, rows=rows), index).history]
    assert wanted == expected.tolist()


def test_request_rows_encode_as_the_table_does(data, string_data):
    for source in (data, string_data):
        encoder = fitted(source)
        encoded, index = encoder.encode(source), source.indices("test")
        bags, scenario = encoder.request_bags(request_batch_from_rows(source, index))
        expected = encoded.bags(index)
        for found, wanted in zip(bags, expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(scenario, expected.scenario)
        side = encoder.request_side(request_batch_from_rows(source, index), scenario)
        wanted_side = encoded.side(index)
        np.testing.assert_array_equal(side.dense, wanted_side.dense)
        known = side.user_known[0][side.user_index]
        np.testing.assert_array_equal(known, wanted_side.user_known[0][wanted_side.user_index])
        wanted_vectors = wanted_side.user_vectors[0][wanted_side.user_index] * known
        np.testing.assert_array_equal(side.user_vectors[0][side.user_index] * known, wanted_vectors)


def test_unknown_ids_and_missing_columns_are_row_zero(data):
    encoder = fitted(data)
    batch = request_batch_from_rows(data, [2000, 2001])
    batch.user["user_id"], batch.item["item_id"], batch.user["gender"] = [10**6, 10**7], [-5, None], [None, "?"]
    bags, _ = encoder.request_bags(batch)
    assert not bags.user.any()
    assert not bags.item[0].any()


def test_an_unknown_scenario_is_named(data):
    encoder, batch = fitted(data), request_batch_from_rows(data, [0])
    batch.scenario = ["attic"]
    with pytest.raises(DataError, match="attic.*home"):
        encoder.request_bags(batch)


def test_vectors_of_another_width_are_refused(data):
    encoder, batch = fitted(data), request_batch_from_rows(data, [0])
    batch.user_vectors = {"user_pooled": np.zeros((1, 5), np.float32)}
    with pytest.raises(DataError, match="user_pooled"):
        encoder.request_side(batch, np.zeros(1, np.int64))


def test_a_dataset_without_a_file_or_a_column_is_named(data, data_folder, tmp_path):
    folder = shutil.copytree(data_folder, tmp_path / "d")
    pq.write_table(data.rows.drop_columns(["genre"]), folder / "rows.parquet")
    with pytest.raises(DataError, match=r"rows\.parquet.*'genre'"):
        load_dataset(folder)
    (folder / "user_log.parquet").unlink()
    pq.write_table(data.rows, folder / "rows.parquet")
    with pytest.raises(DataError, match=r"user_log\.parquet"):
        load_dataset(folder)
    (folder / "spec.json").write_text("{}")
    with pytest.raises(DataError, match=r"spec\.json.*user_categorical"):
        load_dataset(folder)


def test_a_table_without_training_rows_is_refused(data):
    rows = data.rows.take(pa.array(data.indices("test")))
    with pytest.raises(DataError, match="no row of split 'train'"):
        fitted(TrainingData(rows, data.user_log, data.vectors, data.spec))


def test_encoder_survives_json(data):
    encoder = fitted(data)
    again = Encoder.from_spec(encoder.as_spec(), encoder.vocabularies)
    np.testing.assert_array_equal(again.encode(data).dense, encoder.encode(data).dense)
    assert again.layout == encoder.layout


def test_a_log_out_of_order_is_put_in_order(data):
    log = data.user_log
    shuffled = log.take(pa.array(np.random.default_rng(0).permutation(log.num_rows)))
    assert log_order(log) is log
    assert log_order(shuffled).equals(log_order(log))


def test_distinct_is_unique_with_inverse():
    keys = np.random.default_rng(0).integers(-1, 50, 300)
    for found, expected in zip(distinct(keys), np.unique(keys, return_inverse=True), strict=True):
        np.testing.assert_array_equal(found, expected)
    far = np.array([10**12, -1, 10**12])
    assert distinct(far)[0].tolist() == [-1, 10**12]
