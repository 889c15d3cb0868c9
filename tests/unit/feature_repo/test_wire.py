"""What a push writes without Feast is, byte for byte, what Feast writes."""

from __future__ import annotations

import random
import string
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3, _redis_key, extract_text_and_num
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp

from feature_repo import wire

DRAW = random.Random(3)
EDGES = [0, 1, -1, 127, 128, 2**31, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63)]
INTEGERS = [*EDGES, *(DRAW.randrange(-(2**63), 2**63) for _ in range(200))]
TEXTS = ["", "u1", "Größe 😀", "x" * 300, *("".join(DRAW.choices(string.printable, k=9)) for _ in range(50))]
FLOATS = [0.0, -0.0, 0.1, 1e-45, 3.4e38, *np.random.default_rng(1).normal(size=50).astype(np.float32).tolist()]
CASES = [
    *((value, pa.int64(), ValueType.INT64) for value in INTEGERS),
    *((value, pa.string(), ValueType.STRING) for value in TEXTS),
    *((value, pa.float32(), ValueType.FLOAT) for value in FLOATS),
    *((part, pa.list_(pa.int64()), ValueType.INT64_LIST) for part in ([7], INTEGERS)),
    *((part, pa.list_(pa.string()), ValueType.STRING_LIST) for part in (["a"], TEXTS)),
    *((part, pa.list_(pa.float32()), ValueType.FLOAT_LIST) for part in ([0.5], FLOATS)),
]


def test_values_are_encoded_as_feast_encodes_them():
    for value, kind, theirs in CASES:
        [expected] = python_values_to_proto_values([value], theirs)
        assert wire.encode(value, kind) == expected.SerializeToString(), value
        assert wire.as_text(value, kind) == extract_text_and_num(expected, False)[0], value


@pytest.mark.parametrize("kind", [pa.int64(), pa.string(), pa.float32()])
def test_an_empty_list_is_read_back_as_one(kind):
    held = Value.FromString(wire.encode([], pa.list_(kind)))
    assert (
        held.WhichOneof("val")
        == {"int64": "int64_list_val", "string": "string_list_val", "float": "float_list_val"}[str(kind)]
    )


def test_integers_are_read_back():
    for value in INTEGERS:
        assert wire.integer(Value(int64_val=value).SerializeToString()) == value
    assert wire.integer(None) is None and wire.integer(Value(string_val="7").SerializeToString()) is None


def test_keys_and_fields_are_those_of_feast():
    for value in [*INTEGERS, *TEXTS]:
        held = Value(int64_val=value) if isinstance(value, int) else Value(string_val=value)
        key = EntityKey(join_keys=["user_id"], entity_values=[held])
        assert wire.entity_key("user_id", value) == serialize_entity_key(key, 3)
        assert wire.entity_key("user_id", value) + b"shop" == _redis_key("shop", key, 3)
    for name in TEXTS:
        assert wire.field_id("user_stats", name) == _mmh3(f"user_stats:{name}")


@pytest.mark.parametrize("micros", [0, 1, 999_999, 1_000_000, 1_700_000_000_000_001])
def test_times_are_protobufs(micros):
    expected = Timestamp()
    expected.FromMicroseconds(micros)
    assert wire.timestamp(micros) == expected.SerializeToString()


def test_a_push_imports_neither_feast_nor_torch():
    code = "import feature_repo.pusher, knowledge.pooling.pooler, sys; print({'feast', 'torch', 'pandas', 'sqlalchemy', 'mlflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
