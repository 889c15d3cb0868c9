"""Rows go online in the order in which a database sorts their keys."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from feature_repo.online_source import _order_of_keys

NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-300, 70_000)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=300)


def stored(value: int | str) -> bytes:
    told = Value(int64_val=value) if isinstance(value, int) else Value(string_val=value)
    return bytes(serialize_entity_key(EntityKey(join_keys=["user_id"], entity_values=[told]), 3))


@pytest.mark.parametrize(("kind", "values"), [(pa.int64(), NUMBERS), (pa.string(), TEXTS)])
def test_ids_are_ordered_as_the_bytes_of_their_keys(kind: pa.DataType, values: st.SearchStrategy[int | str]) -> None:
    @given(st.lists(values, unique=True, max_size=20))
    @examples(60)
    def check(ids: list[int | str]) -> None:
        given_ids = pa.table({"user_id": pa.array(ids, kind)})
        query = f"SELECT user_id FROM given_ids ORDER BY {_order_of_keys('user_id', kind)}"
        with duckdb.connect() as connection:
            connection.register("given_ids", given_ids)
            found = [row[0] for row in connection.execute(query).fetchall()]
        assert found == sorted(ids, key=stored)

    check()
