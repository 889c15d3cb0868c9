"""The gate behind knowledge: a planted fault stops the run and is named."""

from __future__ import annotations

import datetime as dt
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from unit.validation.validation_tables import NOW, knowledge_rows, write

from core import Settings
from core.digest import vector_digests
from core.errors import GateError, MissingArtifactError
from core.tables import knowledge_schema, knowledge_text_schema
from validation import validate_knowledge

USERS, ITEMS, SCENARIOS = 6, 9, ["home", "search"]


class Knowledge:
    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.index = {
            "item_text": knowledge_rows("item_id", list(range(ITEMS)), "item_text"),
            "user_pooled": knowledge_rows("user_id", list(range(USERS)), "pooled"),
            "scenario": knowledge_rows("scenario", SCENARIOS, "scenario"),
        }
        self.vectors = {
            "item_text": rng.standard_normal((ITEMS, 8)).astype(np.float32),
            "user_pooled": rng.standard_normal((USERS, 4)).astype(np.float32),
            "scenario": rng.standard_normal((2, 16)).astype(np.float32),
        }
        self.texts = {"user": self.text("user_id", list(range(USERS))), "scenario": self.text("scenario", SCENARIOS)}
        self.versions = {"item_text": "v1", "pooled": "v1", "scenario": "v1"}

    @staticmethod
    def text(key, ids):
        rows = knowledge_rows(key, ids, "x")
        for name in ("kind", "prompt_sha256", "row"):
            del rows[name]
        return {**rows, "text": ["likes films"] * len(ids), "text_source": ["summary"] * len(ids)}

    @staticmethod
    def bind(folder, rows, vectors, key):
        known = [at if at is not None and 0 <= at < len(vectors) else 0 for at in rows["row"]]
        ids, prompts = rows[key], rows["prompt_sha256"]
        one_by_one = [
            vector_digests([i], v, [p], vectors[[at]])
            for i, v, p, at in zip(ids, rows["version"], prompts, known, strict=True)
        ]
        np.save(folder / "digests.npy", np.concatenate([np.zeros((0, 32), np.uint8), *one_by_one]))

    def write(self, folder):
        keys = {"item_text": ("item_id", pa.int64()), "user_pooled": ("user_id", pa.int64())}
        for name, rows in self.index.items():
            write(folder / name, "index", rows, knowledge_schema(*keys.get(name, ("scenario", pa.string()))))
            np.save(folder / name / "vectors.npy", self.vectors[name])
            self.bind(folder / name, rows, self.vectors[name], keys.get(name, ("scenario", None))[0])
        for name, rows in self.texts.items():
            key = ("user_id", pa.int64()) if name == "user" else ("scenario", pa.string())
            write(folder, f"{name}_text", rows, knowledge_text_schema(*key))
        (folder / "versions.json").write_text(json.dumps(self.versions))
        return folder


@pytest.fixture
def knowledge():
    return Knowledge()


def log_of(folder, users):
    """A window's interactions: two rows of each of the first `users` users."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {"user_id": np.repeat(np.arange(users), 2), "item_id": np.arange(2 * users) % ITEMS}
    pq.write_table(pa.table(rows), folder / "interactions.parquet")
    return folder / "interactions.parquet"


@pytest.fixture
def gate(knowledge, clock, tmp_path):
    def run(active=USERS, lag=dt.timedelta(0), **limits):
        settings = Settings(
            knowledge={"user_dim": 4, "item_dim": 8, "lag": {"pooled": lag}},
            validation=limits,
            data={"batch_rows": 100},
        )
        log = None if active is None else log_of(tmp_path / "log", active)
        return validate_knowledge(knowledge.write(tmp_path), settings, clock, log)

    return run


def test_sound_knowledge_passes_and_reports_its_coverage(gate):
    found = gate(active=8)
    assert found["verdict"] == "passed"
    assert found["tables"]["user_pooled"]["facts"]["coverage"] == 0.75
    assert set(found["tables"]) == {"item_text", "scenario", "user_pooled", "user_text", "scenario_text"}
    assert json.loads(json.dumps(found)) == found


def test_coverage_below_the_floor_stops(gate):
    with pytest.raises(GateError, match="coverage"):
        gate(active=8, min_knowledge_coverage=0.9)


def test_users_of_other_days_do_not_cover_for_those_of_this_one(gate, knowledge, clock, tmp_path):
    settings = Settings(knowledge={"user_dim": 4, "item_dim": 8}, validation={"min_knowledge_coverage": 0.5})
    strangers = pa.table({"user_id": np.arange(USERS - 1, USERS + 3), "item_id": np.zeros(4, np.int64)})
    pq.write_table(strangers, tmp_path / "strangers.parquet")
    with pytest.raises(GateError, match=r"coverage is 0\.25"):
        validate_knowledge(knowledge.write(tmp_path / "k"), settings, clock, tmp_path / "strangers.parquet")


def test_one_scenario_at_many_moments_is_all_zeros_and_no_fault(gate, knowledge):
    knowledge.index["scenario"]["scenario"] = ["home"] * len(SCENARIOS)
    knowledge.vectors["scenario"][:] = 0.0
    first = knowledge.index["scenario"]["event_timestamp"][0]
    for column in ("event_timestamp", "watermark", "created_timestamp"):
        knowledge.index["scenario"][column] = [first - dt.timedelta(days=k) for k in range(len(SCENARIOS))]
    assert gate()["verdict"] == "passed"


def test_coverage_without_known_users_is_not_judged(gate):
    assert gate(active=None, min_knowledge_coverage=0.9)["tables"]["user_pooled"]["facts"]["coverage"] is None


def test_a_log_without_any_user_snapshot_passes_with_zero_coverage(gate, knowledge):
    knowledge.index["user_pooled"] = {name: [] for name in knowledge.index["user_pooled"]}
    knowledge.vectors["user_pooled"] = np.empty((0, 4), np.float32)
    knowledge.texts["user"] = {name: [] for name in knowledge.texts["user"]}
    assert gate()["tables"]["user_pooled"]["facts"]["coverage"] == 0.0


LATE = NOW + dt.timedelta(seconds=1)


def stopped(gate):
    with pytest.raises(GateError) as error:
        gate()
    return str(error.value)


def assert_named(message, planted):
    """`planted`: rule -> place of the row; people count from 1."""
    for rule, row in planted.items():
        assert re.search(rf"1 rows break {rule} .*e\.g\. row {row + 1}: ", message), message


def test_each_faulty_vector_is_named_under_its_rule(gate, knowledge):
    knowledge.vectors["item_text"][3, 2] = np.inf
    knowledge.vectors["item_text"][5] = 1e9
    knowledge.index["item_text"]["row"][8] = 9
    knowledge.index["item_text"]["item_id"][6] = None
    message = stopped(gate)
    planted = {"vector_not_finite": 3, "norm_out_of_band": 5, "row_outside_matrix": 8, "item_id_null": 6}
    assert_named(message, planted)
    assert "item_text" in message


def test_one_nan_is_enough(gate, knowledge):
    knowledge.vectors["user_pooled"][5, 0] = np.nan
    assert_named(stopped(gate), {"vector_not_finite": 5})


def test_knowledge_from_the_future_is_named(gate, knowledge):
    index = knowledge.index["user_pooled"]
    index["event_timestamp"][1] = LATE
    index["created_timestamp"][2] = LATE
    index["watermark"][3] = NOW  # after its own event time
    index["watermark"][4] = None
    planted = {
        "event_timestamp_in_future": 1,
        "created_timestamp_in_future": 2,
        "read_before_built": 3,
        "watermark_null": 4,
    }
    assert_named(stopped(gate), planted)


def test_faults_of_a_kind_as_a_whole_are_all_told(gate, knowledge):
    index = knowledge.index["user_pooled"]
    index["version"][4] = "v2"
    index["kind"][4] = "prompt"
    for column in ("user_id", "event_timestamp", "watermark", "created_timestamp"):
        index[column][1] = index[column][0]
    knowledge.vectors["user_pooled"][:4] = 0.0
    message = stopped(gate)
    for words in (
        "versions is 2",
        "the index has v1, v2, versions.json lists v1",
        "kind_problems is prompt",
        "repeated_keys is 1",
        "share_of_zero_vectors is 0.666667",
    ):
        assert words in message, message


def matrix(name, change):
    def fault(knowledge):
        knowledge.vectors[name] = change(knowledge.vectors[name])

    return fault


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (matrix("item_text", lambda m: np.ones_like(m)), "vectors_differ is 0"),
        (matrix("user_pooled", lambda m: np.ascontiguousarray(m[:, :3])), "3 numbers, 4 wanted"),
        (matrix("item_text", lambda m: np.hstack([m, m])), "16 numbers, 8 wanted"),
        (matrix("item_text", lambda m: m.astype(np.float64)), "float64 [9, 8], not float32"),
        (matrix("item_text", lambda m: m[:-1]), "row 9: 8"),
        (lambda k: k.versions.update(item_text="v9"), "the index has v1, versions.json lists v9"),
        (lambda k: k.versions.pop("item_text"), "versions.json does not list item_text"),
    ],
)
def test_a_faulty_matrix_or_version_stops_the_run(gate, knowledge, fault, words):
    fault(knowledge)
    assert words in stopped(gate)


def test_faulty_texts_are_named(gate, knowledge):
    user = knowledge.texts["user"]
    user["text"][2] = "   "
    user["text_source"][0] = "guessed"
    user["event_timestamp"][1] = LATE
    assert_named(stopped(gate), {"text_empty": 2, "text_source_unknown": 0, "event_timestamp_in_future": 1})


def test_knowledge_that_a_lag_publishes_after_now_is_allowed(gate, knowledge):
    for name in ("event_timestamp", "created_timestamp"):
        knowledge.index["user_pooled"][name][0] = NOW + dt.timedelta(hours=1)
    assert gate(lag=dt.timedelta(hours=1))["verdict"] == "passed"
    with pytest.raises(GateError, match="in_future"):
        gate(lag=dt.timedelta(minutes=59))


def test_a_kind_that_the_settings_ask_for_must_be_there(gate, knowledge):
    del knowledge.index["user_pooled"]
    with pytest.raises(MissingArtifactError, match="user_pooled"):
        gate()


def test_vectors_swapped_between_two_users_are_named(gate, knowledge, tmp_path, clock):
    gate()
    vectors = knowledge.vectors["user_pooled"]
    vectors[[1, 4]] = vectors[[4, 1]]
    np.save(tmp_path / "user_pooled" / "vectors.npy", vectors)
    settings = Settings(knowledge={"user_dim": 4, "item_dim": 8})
    with pytest.raises(GateError, match=r"2 rows break vector_of_someone_else .*row 2: True; row 5: True"):
        validate_knowledge(tmp_path, settings, clock, None)


def test_a_vector_on_another_scale_is_named(gate, knowledge):
    knowledge.vectors["user_pooled"][2] *= 100
    assert_named(stopped(gate), {"norm_unlike_others": 2})


@pytest.mark.parametrize(
    ("text", "source", "sound"),
    [
        ("Likes quiet films.", "generated", True),
        ("Likes: Heat, Alien", "summary", True),
        ("Sorry, that film is sad, she says.", "summary", True),
        ("Likes quiet films and", "generated", False),
        ("I'm sorry, but I can't help with that.", "generated", False),
        ("As an AI language model, I have no view.", "generated", False),
    ],
)
def test_refusals_and_cut_texts_are_judged_where_they_were_generated(gate, knowledge, text, source, sound):
    knowledge.texts["user"]["text"][3], knowledge.texts["user"]["text_source"][3] = text, source
    if sound:
        gate()
    else:
        assert_named(stopped(gate), {"text_useless": 3})


@pytest.fixture
def again(knowledge, clock, tmp_path):
    """Judge the knowledge against what it was before the test changed it."""
    before = knowledge.write(tmp_path / "before")
    log = log_of(tmp_path / "log", USERS)

    def run(active=log, **limits):
        settings = Settings(knowledge={"user_dim": 4, "item_dim": 8}, validation=limits)
        return validate_knowledge(knowledge.write(tmp_path / "now"), settings, clock, active, before)

    return run


def test_unchanged_knowledge_passes_against_the_artifact_before(again):
    facts = again()["tables"]["user_pooled"]["facts"]
    assert (facts["changed_unprompted"], facts["lost_ids"], facts["coverage_drop"]) == (0, 0, 0)


def test_another_vector_for_the_same_version_and_prompt_stops(again, knowledge):
    knowledge.vectors["user_pooled"][0] *= 1.05
    with pytest.raises(GateError, match=r"changed_unprompted is 0\.1666"):
        again()


def test_another_machines_rounding_is_no_other_vector(again, knowledge):
    noise = np.random.default_rng(0).standard_normal((USERS, 4)).astype(np.float32)
    knowledge.vectors["user_pooled"] *= 1 + 0.005 * noise
    facts = again()["tables"]["user_pooled"]["facts"]
    assert facts["changed_unprompted"] == 0
    assert 0.001 < facts["largest_unprompted_change"] < 0.02


def test_every_kind_has_a_page_in_the_data_docs(knowledge, clock, tmp_path):
    settings, docs = Settings(knowledge={"user_dim": 4, "item_dim": 8}), tmp_path / "docs"
    validate_knowledge(knowledge.write(tmp_path / "now"), settings, clock, None, docs=docs, run_id="9999999999999999")
    index = (docs / "index.html").read_text()
    assert "9999999999999999" in index and "<td>6</td>" in index
    for table in ("item_text", "scenario", "user_pooled", "user_text", "scenario_text"):
        assert f'href="{table}.html"' in index and (docs / f"{table}.html").is_file()
    assert "vectors were swapped or replaced" in (docs / "user_pooled.html").read_text()


def test_a_new_version_may_have_other_vectors(again, knowledge):
    knowledge.vectors["user_pooled"] *= 1.5
    knowledge.index["user_pooled"]["version"] = ["v2"] * USERS
    knowledge.versions["pooled"] = "v2"
    assert again()["verdict"] == "passed"


def test_users_who_lost_their_knowledge_stop_the_run(again, knowledge):
    knowledge.index["user_pooled"] = {name: values[:4] for name, values in knowledge.index["user_pooled"].items()}
    knowledge.vectors["user_pooled"] = knowledge.vectors["user_pooled"][:4]
    with pytest.raises(GateError, match=r"(?s)lost_ids is 0\.333.*coverage_drop is 0\.333"):
        again()


def test_the_limits_that_a_message_names_let_the_day_pass(again, knowledge):
    knowledge.index["user_pooled"] = {name: values[:4] for name, values in knowledge.index["user_pooled"].items()}
    knowledge.vectors["user_pooled"] = knowledge.vectors["user_pooled"][:4]
    with pytest.raises(GateError) as stop:
        again()
    named = set(re.findall(r"validation\.(\w+) sets the limit", str(stop.value)))
    assert named == {"max_lost_users", "max_coverage_drop"}
    assert again(**dict.fromkeys(named, 0.5))["verdict"] == "passed"


def test_a_day_of_new_users_is_no_loss_of_knowledge(again, tmp_path):
    """Nobody who had a vector lost it: that most of the day's users have none yet is no drop."""
    facts = again(log_of(tmp_path / "day", 10 * USERS))["tables"]["user_pooled"]["facts"]
    assert (facts["coverage"], facts["coverage_drop"], facts["lost_ids"]) == (0.1, 0, 0)


def test_users_who_came_due_and_were_left_out_stop_the_run(again, tmp_path):
    busy = {"user_id": np.repeat(np.arange(4 * USERS), 6), "item_id": np.tile(np.arange(6), 4 * USERS)}
    pq.write_table(pa.table(busy), tmp_path / "busy.parquet")
    with pytest.raises(GateError, match=r"due_without_vector is 0\.75.*validation\.max_due_without_vector"):
        again(tmp_path / "busy.parquet")
    busy["item_id"] += ITEMS  # items without a text: nothing could be made of them
    pq.write_table(pa.table(busy), tmp_path / "busy.parquet")
    assert again(tmp_path / "busy.parquet")["verdict"] == "passed"


def test_items_of_one_text_have_one_vector_by_right_and_are_noted(gate, knowledge):
    """The reasoner is at fault only where different prompts give one vector."""
    index, vectors = knowledge.index["item_text"], knowledge.vectors["item_text"]
    vectors[1:4] = vectors[0]
    index["prompt_sha256"][1:4] = [index["prompt_sha256"][0]] * 3
    notes = gate(min_vectors=6)["tables"]["item_text"]["notes"]
    assert [note for note in notes if "share_of_commonest_prompt" in note and "data.item_text" in note]
    index["prompt_sha256"][1:4] = [f"{k:064x}" for k in range(70, 73)]
    with pytest.raises(GateError, match=r"share_of_commonest_vector is 0\.44.*validation\.max_same_vector"):
        gate(min_vectors=6)


def test_a_catalogue_without_text_has_no_item_vectors(gate, knowledge, tmp_path, clock):
    for name in ("item_text", "user_pooled"):
        knowledge.index[name] = {column: [] for column in knowledge.index[name]}
        knowledge.vectors[name] = knowledge.vectors[name][:0]
    knowledge.texts["user"] = {column: [] for column in knowledge.texts["user"]}
    with pytest.raises(GateError, match="rows is 0"):
        gate()
    settings = Settings(knowledge={"user_dim": 4, "item_dim": 8})
    found = validate_knowledge(knowledge.write(tmp_path), settings, clock, log_of(tmp_path / "log", USERS), texts=False)
    assert found["verdict"] == "passed"


def test_changed_prompts_with_the_old_vectors_stop_the_run(again, knowledge):
    later = NOW - dt.timedelta(days=1)
    index = knowledge.index["user_pooled"]
    index["prompt_sha256"] = [f"new{i}" for i in range(USERS)]
    for column in ("watermark", "event_timestamp", "created_timestamp"):
        index[column] = [later] * USERS
    with pytest.raises(GateError, match="unchanged_vectors is 1"):
        again(min_vectors=3)


def in_segments(folder, name, files):
    """A file of an artifact as the segment of that number in place of it."""
    for file in files:
        place = folder / file.stem / f"{name}{file.suffix}"
        place.parent.mkdir(exist_ok=True)
        file.rename(place)


class Nights:
    """An artifact, and the one of the night after: its first segments are the same files, its second are the new users'."""

    def __init__(self, tmp_path, clock) -> None:
        self.before, self.now, self.clock = tmp_path / "before", tmp_path / "now", clock
        self.old, self.new = Knowledge(), Knowledge()
        rows = {**knowledge_rows("user_id", list(range(USERS, 2 * USERS)), "pooled")}
        rows["prompt_sha256"] = [f"{'f' * 60}{n:04x}" for n in range(USERS)]
        rows["row"] = list(range(USERS, 2 * USERS))
        self.rows, self.vectors = rows, np.random.default_rng(4).standard_normal((USERS, 4)).astype(np.float32)

    def judge(self, judged=True):
        for folder in (self.before, self.now):
            self.old.write(folder)
            users = folder / "user_pooled"
            in_segments(users, "0000", [users / f"{n}" for n in ("index.parquet", "vectors.npy", "digests.npy")])
        for path in (self.now / "user_pooled").rglob("0000.*"):
            path.unlink()
            path.hardlink_to(self.before / path.relative_to(self.now))
        users, extra = self.now / "user_pooled", self.now.with_name("extra")
        write(extra, "index", self.rows, knowledge_schema("user_id", pa.int64()))
        np.save(extra / "vectors.npy", self.vectors)
        Knowledge.bind(extra, {**self.rows, "row": list(range(USERS))}, self.vectors, "user_id")
        for file in list(extra.iterdir()):
            file.rename(users / file.stem / f"0001{file.suffix}")
        settings = Settings(knowledge={"user_dim": 4, "item_dim": 8}, data={"batch_rows": 4})
        before = self.before
        return validate_knowledge(self.now, settings, self.clock, None, before, judged=before if judged else None)


@pytest.fixture
def nights(tmp_path, clock):
    return Nights(tmp_path, clock)


@pytest.mark.parametrize("judged", [False, True])
def test_a_fault_in_what_a_night_brought_is_named_by_its_row(nights, judged):
    nights.vectors[3, 0] = np.nan
    assert_named(stopped(lambda: nights.judge(judged)), {"vector_not_finite": USERS + 3})


def test_what_an_artifact_shares_with_one_that_passed_is_not_read_again(nights):
    assert nights.judge()["tables"]["user_pooled"]["facts"]["rows"] == 2 * USERS
    nights.old.vectors["user_pooled"][2, 0] = np.nan
    nights.judge()
    with pytest.raises(GateError, match="vector_not_finite"):
        nights.judge(judged=False)


def test_a_key_that_a_night_brings_again_is_noticed(nights):
    for column in ("user_id", "watermark", "event_timestamp", "created_timestamp"):
        nights.rows[column][1] = nights.old.index["user_pooled"][column][0]
    with pytest.raises(GateError, match="repeated_keys"):
        nights.judge()
