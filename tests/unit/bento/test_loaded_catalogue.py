"""The catalogue in memory."""

from __future__ import annotations

import os

import numpy as np
import pytest
from unit.bento.handmade import write_catalogue

from bento.catalogue import load_catalogue
from core.errors import CorruptArtifactError


def test_members_are_the_scenarios_items_with_most_positives_first(catalogue):
    ids = catalogue.columns["item_id"]
    assert ids[catalogue.members["home"]].tolist() == [12, 15, 11, 13]
    assert ids[catalogue.members["search"]].tolist() == [15, 11, 14, 13]
    assert ids[catalogue.ascending["home"]].tolist() == [11, 12, 13, 15]


def test_columns_are_numbers_where_all_are_and_objects_where_one_is_missing(catalogue):
    assert catalogue.columns["item_id"].dtype == np.int64
    assert catalogue.columns["year"].tolist() == [2000.0, None, 1990.0, 2010.0, 1980.0]
    assert catalogue.columns["genre"].tolist() == ["a", "b", None, "a", "c"]


def test_find_gives_each_known_id_once_in_the_order_asked(catalogue):
    rows, unknown = catalogue.find([14, 99, 11, 14, "x", 99])
    assert catalogue.columns["item_id"][rows].tolist() == [14, 11]
    assert unknown == [99, "x"]


def test_find_of_nothing_is_nothing(catalogue):
    rows, unknown = catalogue.find([])
    assert (len(rows), rows.dtype, unknown) == (0, np.int64, [])


def test_an_altered_file_is_refused(tmp_path):
    write_catalogue(tmp_path / "c")
    with (tmp_path / "c" / "items.parquet").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(CorruptArtifactError, match="items.parquet"):
        load_catalogue(tmp_path / "c")


def test_another_catalogue_than_the_pointers_is_refused(tmp_path):
    write_catalogue(tmp_path / "c")
    with pytest.raises(CorruptArtifactError, match="not the catalogue"):
        load_catalogue(tmp_path / "c", "another digest")


def test_text_vectors_outlive_the_file_they_were_read_from(tmp_path):
    """A map of a file that is cut short under a running process would end it."""
    write_catalogue(tmp_path / "c")
    text = load_catalogue(tmp_path / "c").text
    before = text.copy()
    os.truncate(tmp_path / "c" / "item_text.npy", 100)
    np.testing.assert_array_equal(text, before)
    assert not isinstance(text, np.memmap)
