"""How an id is written: one rule, for columns and for single values."""

import datetime as dt
import uuid
from decimal import Decimal

import pyarrow as pa
import pytest

from core.ids import Spellings, read_id, read_ids
from core.spelling import UnfitColumnError

INTEGER, TEXT = pa.int64(), pa.string()
LOST = "its last digits are lost"


def integers(values, kind=None):
    ids, faults = read_ids(pa.array(values, kind), INTEGER)
    return ids.to_pylist(), faults


def texts(values, kind=None):
    ids, faults = read_ids(pa.array(values, kind), TEXT)
    return ids.to_pylist(), faults


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([102, None], pa.int32()),
        ([102, None], pa.uint64()),
        ([102.0, float("nan")], pa.float64()),
        ([102.0, None], pa.float32()),
        ([Decimal("102"), None], pa.decimal128(20, 2)),
        (["102", None], pa.string()),
        (["102", ""], pa.large_string()),
        (["102", " "], pa.string_view()),
        ([b"102", None], pa.binary()),
        (["102", "nan"], pa.dictionary(pa.int32(), pa.string())),
        ([102, None], pa.dictionary(pa.int8(), pa.int64())),
    ],
)
def test_every_type_of_column_spells_the_same_id(values, kind):
    assert integers(values, kind) == ([102, None], {})
    assert texts(values, kind) == (["102", None], {})


@pytest.mark.parametrize("word", ["102", " 102\t", "+102", "102.0", "102.", "1.02e2", "1.02E+2", "\u00a0102\u2003"])
def test_a_whole_number_is_one_integer_however_it_is_spelled(word):
    assert integers([word, "7"]) == ([102, 7], {})
    assert read_id(word, INTEGER) == 102


@pytest.mark.parametrize("largest", ["9223372036854775807", "-9223372036854775808"])
def test_every_int64_can_be_an_id(largest):
    assert integers([largest]) == ([int(largest)], {})
    assert read_id(largest, INTEGER) == int(largest)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("007", "begins with a zero: as an integer it would be 7; set data.ids: string"),
        ("guest-3", "is no id: ids are integers here; set data.ids: string"),
        ("1.5", "has a fraction"),
        ("9223372036854775808", "too large for an integer id; set data.ids: string"),
        ("9007199254740992.0", LOST),
        ("9.1e15", LOST),
        ("1e400", "is no id"),
    ],
)
def test_what_is_no_integer_says_why(word, reason):
    ids, faults = integers(["1", word, "2"])
    assert ids == [1, None, 2]
    assert list(faults) == [1]
    assert reason in faults[1]
    assert word in faults[1]
    with pytest.raises(ValueError, match=reason.replace(".", r"\.")[:40]):
        read_id(word, INTEGER)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(float(2**53), pa.float64()), (float(2**24), pa.float32()), (2048.0, pa.float16())],
)
@pytest.mark.parametrize("ids", [INTEGER, TEXT])
def test_a_float_that_cannot_tell_its_neighbours_apart_is_no_id(value, kind, ids):
    smaller = value - 1
    found, faults = read_ids(pa.array([smaller, value], pa.float64()).cast(kind), ids)
    assert found.to_pylist() == ([int(smaller), None] if ids == INTEGER else [str(int(smaller)), None])
    assert LOST in faults[1]


@pytest.mark.parametrize("value", [1.5, float("inf")])
def test_a_float_that_is_no_whole_number_is_no_id(value):
    assert list(integers([value])[1]) == list(texts([value])[1]) == [0]


def test_a_decimal_has_all_its_digits():
    large = Decimal("123456789012345678901")
    assert texts([large, Decimal("5.50")], pa.decimal128(38, 2)) == (
        [str(large), None],
        {1: "'5.50' has a fraction: it is no id"},
    )


def test_unsigned_ids_beyond_int64_are_text_or_a_fault():
    assert texts([2**63], pa.uint64()) == ([str(2**63)], {})
    assert "set data.ids: string" in integers([2**63], pa.uint64())[1][0]


def test_text_ids_stay_as_they_are_written():
    words = ["007", "7", "102.0", "Änn", "A\u0308nn", "a b"]
    assert texts(words) == (words, {})


def test_a_uuid_is_its_usual_text():
    one = uuid.uuid4()
    assert texts([one.bytes], pa.binary(16)) == ([str(one)], {})
    assert texts([one.bytes], pa.uuid()) == ([str(one)], {})


@pytest.mark.parametrize(
    ("values", "kind", "reason"),
    [
        ([True], pa.bool_(), "holds bool, which is no id"),
        ([dt.date(2024, 1, 1)], pa.date32(), "holds date32"),
        ([dt.datetime(2024, 1, 1)], pa.timestamp("us"), "holds timestamp"),
        ([[1]], pa.list_(pa.int64()), "holds list"),
        ([b"abc"], pa.binary(3), "holds 3 raw bytes"),
        ([b"\xff\xfe"], pa.binary(), "no UTF-8 text"),
    ],
)
@pytest.mark.parametrize("ids", [INTEGER, TEXT])
def test_other_types_are_refused_by_name(values, kind, reason, ids):
    with pytest.raises(UnfitColumnError, match=reason):
        read_ids(pa.array(values, kind), ids)


@pytest.mark.parametrize(
    ("value", "integer", "text"),
    [
        (7, 7, "7"),
        (7.0, 7, "7"),
        (1e3, 1000, "1000"),
        ("7", 7, "7"),
        (" 7 ", 7, "7"),
        ("7.0", 7, "7.0"),
        (2**70, None, str(2**70)),
        ("ann", None, "ann"),
        (True, None, None),
        (None, None, None),
        ([7], None, None),
        (1.5, None, None),
        (1e30, None, None),
        ("", None, None),
        ("nan", None, None),
        (float("nan"), None, None),
        ("half \ud83d", None, None),
    ],
)
def test_a_request_names_an_id_by_the_same_rule(value, integer, text):
    for kind, expected in ((INTEGER, integer), (TEXT, text)):
        if expected is None:
            with pytest.raises(ValueError):
                read_id(value, kind)
        else:
            assert read_id(value, kind) == expected


@pytest.mark.parametrize("words", [["1", "+2", "3.0", " 4e2 "], ["-5", "0", "nan", "x"], ["12345678901234567", "007"]])
def test_single_values_and_columns_agree(words):
    for kind in (INTEGER, TEXT):
        ids, faults = read_ids(pa.array(words), kind)
        for row, word in enumerate(words):
            try:
                assert read_id(word, kind) == ids[row].as_py()
            except ValueError:
                assert row in faults or ids[row].as_py() is None


@pytest.mark.parametrize(
    ("words", "integers"),
    [
        (["1", "2.0", "", "nan"], True),
        (["1", "guest-3"], False),
        (["1", "007"], False),
        (["1", "99999999999999999999"], False),
        (["1", "1.5"], False),
        (["1", "1e30"], True),  # and reading it says that digits are lost
    ],
)
def test_what_a_files_ids_look_like(words, integers):
    found = Spellings()
    found.add(pa.array(words[:1]))
    found.add(pa.array(words[1:]))
    assert found.integers is integers
