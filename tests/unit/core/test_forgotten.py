import json

import pyarrow as pa

from core.forgotten import Forgotten, belongs


def test_the_list_holds_hashes_and_drops_rows_whatever_type_the_id_has(tmp_path):
    assert Forgotten(tmp_path).digest is None
    Forgotten(tmp_path).add([70007], "2026-01-01")
    listed = Forgotten(tmp_path)
    assert listed.keep(pa.array([1, 70007, None])).to_pylist() == [True, False, True]
    assert listed.keep(pa.array(["70007", "x"])).to_pylist() == [False, True]
    assert "70007" not in json.dumps(json.loads((tmp_path / "forgotten" / "list.json").read_text())["since"])


def test_lifting_brings_a_person_back_and_never_the_digest_of_before(tmp_path):
    listed = Forgotten(tmp_path)
    listed.add(["a", "b"], "2026-01-01")
    both = listed.digest
    assert listed.lift(["a", "c"]) == 1
    assert Forgotten(tmp_path).keep(pa.array(["a", "b"])).to_pylist() == [True, False]
    Forgotten(tmp_path).add(["a"], "2026-01-02")
    assert Forgotten(tmp_path).digest not in (both, listed.digest, None)


def test_two_roots_have_different_hashes_of_one_person(tmp_path):
    hashes = set()
    for name in ("one", "two"):
        Forgotten(tmp_path / name).add(["a"], "2026-01-01")
        hashes.add(Forgotten(tmp_path / name).hash_of("a"))
    assert len(hashes) == 2


def test_ids_belong_by_their_text():
    assert belongs(pa.array([1, 2, None]), ["2"]).to_pylist() == [False, True, False]
    assert belongs(pa.array(["1", "2"]), [2]).to_pylist() == [False, True]
