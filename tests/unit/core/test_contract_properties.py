"""Pointers and specs are read as they were written, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from bento.package import Packaged
from core.contracts.bundle_spec import BundleManifest, BundleMetrics, BundleSpec, DenseSpec, EncoderSpec, LayoutSpec
from core.contracts.catalogue_spec import CatalogueSpec
from core.contracts.contract import Contract
from core.contracts.dataset_spec import DatasetSpec, VectorSpec
from core.contracts.drift import ComparedRows, Divergence, Drift, DriftLimits
from core.contracts.gates import (
    ColumnLook,
    Example,
    Facts,
    GateResults,
    RuleResult,
    ScenarioCount,
    TableResult,
    WindowLook,
)
from core.contracts.knowledge_versions import KnowledgeVersions
from core.contracts.pointers import BundlePointer, CataloguePointer, PublishedCatalogue, PushPointer, Release
from core.contracts.results import (
    Change,
    Choice,
    Curves,
    Epoch,
    GroupChange,
    Lift,
    Promotion,
    Quality,
    Says,
    System,
    VerdictDetails,
)
from core.files import write_json
from core.settings import ModelSettings
from feature_repo.generations import Declared, Latest
from feature_repo.views import Generation, SourcePaths, Vector
from knowledge.log.ordering import OrderedRows
from knowledge.pooling.pooler import Decay
from models.golden import Golden, GoldenBatch, GoldenScores
from pipeline.commands.forget import Pending
from pipeline.findings import Finding, Findings

FILE = Path("root/serving/spec.json")

# Quotes, braces and letters beyond ASCII are what could close a text too early.
texts = st.text(st.sampled_from('ab0"\\{}[]:, \n\té字😀\u2028'), max_size=8)
counts = st.integers(-(2**63), 2**63 - 1)
numbers = st.floats(allow_nan=False, allow_infinity=False)
words = st.lists(texts, max_size=3).map(tuple)
any_json = st.recursive(
    st.none() | st.booleans() | counts | numbers | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)


def by_text(values: st.SearchStrategy) -> st.SearchStrategy:
    return st.dictionaries(texts, values, max_size=3)


release = {
    "bundle": texts,
    "digest": texts,
    "model": texts,
    "version": counts,
    "promoted_at": st.datetimes().map(str),
    "reason": texts,
}
published = st.builds(PublishedCatalogue, catalogue=texts, digest=texts)
features = {
    **dict.fromkeys(["user_categorical", "user_dense", "item_categorical", "item_dense", "scenarios"], words),
    "history_length": counts,
    "prior_rate": numbers,
    "vectors": by_text(st.builds(VectorSpec, dim=counts, version=texts)),
    "views": by_text(words),
    "service": st.none() | texts,
    "id_types": st.dictionaries(st.sampled_from(["user_id", "item_id"]), texts),
    "train_start": st.none() | counts,
    "negatives": st.none() | by_text(any_json),
}
dense = st.builds(DenseSpec, name=texts, log=st.booleans(), fill=numbers, mean=numbers, scale=numbers)
layout = st.builds(
    LayoutSpec,
    user=words,
    item=words,
    rows=by_text(counts),
    history=st.booleans(),
    dense=counts,
    scenarios=words,
    user_vectors=by_text(counts),
    scenario_dim=counts,
    item_dim=counts,
)
encoder = st.builds(
    EncoderSpec,
    layout=layout,
    user_dense=st.lists(dense, max_size=2).map(tuple),
    item_dense=st.lists(dense, max_size=2).map(tuple),
    history_length=counts,
)
model = st.builds(
    ModelSettings,
    backbone=st.sampled_from(get_args(ModelSettings.model_fields["backbone"].annotation)),
    backbone_options=by_text(any_json),
    hidden=st.none() | st.lists(st.integers(1, 512), max_size=3),
    dropout=st.floats(0, 0.9),
)
measure = st.none() | numbers
change = st.builds(
    Change,
    **dict.fromkeys(("champion", "challenger", "difference", "low", "high"), measure),
    told=st.booleans(),
    says=st.sampled_from(get_args(Says)),
)
group = st.builds(GroupChange, rows=counts, users=counts, auc=change, logloss=change)
comparison: dict[str, st.SearchStrategy] = {
    "overall": group,
    "scenarios": by_text(group),
    "cold": group,
    "confidence": numbers,
    "resamples": counts,
    "seed": counts,
}
choice = st.builds(Choice, system=st.sampled_from(get_args(System)), reason=texts)
epochs = st.lists(st.builds(Epoch, epoch=counts, loss=numbers, auc=measure, logloss=numbers), max_size=2)
rule = st.builds(
    RuleResult,
    **dict.fromkeys(("rule", "scope", "expectation", "reason"), texts),
    **dict.fromkeys(("checked", "failed", "quarantined"), counts),
    columns=words,
    success=st.booleans(),
    examples=st.lists(st.builds(Example, row=counts, value=texts), max_size=1).map(tuple),
)
column = st.builds(
    ColumnLook,
    rows=counts,
    nulls=counts,
    quantiles=st.none() | st.lists(numbers, max_size=2).map(tuple),
    values=st.none() | by_text(counts),
)
look = st.builds(
    WindowLook,
    **dict.fromkeys(("rows", "users", "items", "oldest", "newest", "largest_gap"), counts),
    busiest_user=measure,
    bounded=st.booleans(),
    length=st.none() | counts,
    scenarios=by_text(st.builds(ScenarioCount, rows=counts, positives=counts)),
    linked=by_text(measure),
    sketch=words,
    columns=by_text(by_text(column)),
)
table = st.builds(
    TableResult,
    success=st.booleans(),
    facts=st.builds(Facts, share_with_text=measure, window=st.none() | look, clean_rows=counts),
    quarantined_by_rule=by_text(counts),
    notes=words,
    rules=st.lists(rule, max_size=2).map(tuple),
)
vectors = st.lists(st.none() | st.lists(numbers, min_size=2, max_size=2), max_size=2)
values = st.lists(any_json, max_size=2)
golden = st.builds(
    GoldenBatch,
    scenario=st.lists(texts, max_size=2),
    user=by_text(values),
    user_index=st.lists(counts, max_size=2),
    history=st.lists(values, max_size=2),
    item=by_text(values),
    user_vectors=by_text(vectors),
    item_text=st.none() | vectors,
    scenario_vectors=by_text(st.lists(numbers, max_size=2)),
)
generation = st.builds(
    Generation,
    **dict.fromkeys(("name", "user_id", "item_id"), texts),
    **dict.fromkeys(("user_columns", "item_columns"), by_text(texts)),
    vectors=st.lists(st.builds(Vector, texts, texts, counts), max_size=2).map(tuple),
    texts=words,
    ttl=by_text(numbers),
)
paths = st.builds(SourcePaths, *[texts.map(Path)] * 5)
drift = {"psi": measure, "kl": measure, "rows": counts, "drift": st.booleans()}
contracts = st.one_of(
    by_text(texts).map(lambda body: KnowledgeVersions(**body)),
    st.builds(GateResults, verdict=st.just("passed"), tables=by_text(table)),
    st.builds(
        Drift,
        verdict=st.sampled_from(["drift", "stable"]),
        features=by_text(by_text(st.builds(Divergence, **drift))),
        drifted=st.lists(st.tuples(texts, texts), max_size=2).map(tuple),
        limits=st.builds(DriftLimits, psi=numbers, kl=numbers),
        rows=st.builds(ComparedRows, reference=counts, current=counts),
    ),
    st.builds(Findings, findings=st.lists(st.builds(Finding, st.just("note"), texts), max_size=2).map(tuple)),
    st.builds(Curves, plain=epochs, knowledge=epochs),
    st.builds(BundleMetrics, best_epoch=counts, validation=st.builds(Quality, auc=measure, logloss=numbers)),
    st.builds(BundleManifest, name=texts, files=by_text(texts), digest=texts),
    st.builds(
        Golden,
        batch=golden,
        scores=st.builds(GoldenScores, **dict.fromkeys(GoldenScores.model_fields, st.lists(numbers, max_size=2))),
    ),
    st.builds(Packaged, tag_name=texts, bundle=texts),
    st.builds(Declared, generation=generation, paths=paths),
    st.builds(Latest, name=texts),
    st.builds(OrderedRows, part=counts, rows=counts, sha256=by_text(texts)),
    st.builds(Decay, half_life=counts),
    st.builds(Pending, digests=by_text(texts)),
    choice,
    st.builds(Lift, **comparison),
    st.builds(
        Promotion,
        promote=st.booleans(),
        reason=texts,
        details=st.builds(VerdictDetails, rule=texts, settings=by_text(any_json)),
        choice=choice,
        challenger=texts,
        champion=st.none() | texts,
    ),
    st.builds(BundlePointer, **release, previous=st.none() | st.builds(Release, **release)),
    st.builds(
        CataloguePointer, catalogue=texts, digest=texts, texts=by_text(published), order=st.lists(texts, max_size=3)
    ),
    st.builds(PushPointer, sources=st.lists(texts, min_size=1, max_size=3), knowledge=texts, as_of=counts),
    st.builds(CatalogueSpec, versions=by_text(texts), as_of=counts, columns=words),
    st.builds(DatasetSpec, **features, prior_weight=numbers, generation=by_text(any_json)),
    st.builds(BundleSpec, **features, format=st.just(3), name=texts, model=model, encoder=encoder),
)


def refused(kind: type[Contract], text: str) -> None:
    with pytest.raises(kind.ERROR) as error:
        kind.from_text(text, FILE)
    assert str(error.value).startswith(f"{FILE}: ")
    assert kind.REMAKE in str(error.value)


@given(contract=contracts)
@examples(80)
def test_what_was_written_is_read_back(tmp_path: Path, contract: Contract) -> None:
    assert type(contract).from_text(json.dumps(contract.as_json()), FILE) == contract
    write_json(tmp_path / "spec.json", contract.as_json())
    again = type(contract).read_file(tmp_path / "spec.json")
    assert again == contract
    assert again.as_json() == contract.as_json()


@given(contract=contracts, data=st.data())
@examples(60)
def test_a_file_that_was_cut_short_is_refused_and_named(
    tmp_path: Path, contract: Contract, data: st.DataObject
) -> None:
    write_json(tmp_path / "spec.json", contract.as_json())
    whole = (tmp_path / "spec.json").read_bytes()
    # Cut between bytes: also within a letter of several. Without the last line end it is still whole.
    cut = tmp_path / "cut.json"
    cut.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 2))])
    with pytest.raises(type(contract).ERROR) as error:
        type(contract).read_file(cut)
    assert str(error.value).startswith(f"{cut}: ")
    cut.write_bytes(whole[:-1])
    assert type(contract).read_file(cut) == contract


@given(contract=contracts, data=st.data())
@examples(40)
def test_a_byte_that_is_no_letter_is_refused(tmp_path: Path, contract: Contract, data: st.DataObject) -> None:
    write_json(tmp_path / "spec.json", contract.as_json())
    body = bytearray((tmp_path / "spec.json").read_bytes())
    body[data.draw(st.integers(0, len(body) - 1))] = 0xFF
    (tmp_path / "spec.json").write_bytes(bytes(body))
    with pytest.raises(type(contract).ERROR, match=r"spec\.json: "):
        type(contract).read_file(tmp_path / "spec.json")


@given(contract=contracts, data=st.data())
@examples(60)
def test_a_file_with_a_key_too_many_or_too_few_is_refused(contract: Contract, data: st.DataObject) -> None:
    body = contract.as_json()
    needed = sorted(name for name, field in type(contract).model_fields.items() if field.is_required())
    for gone in needed:
        refused(type(contract), json.dumps({name: value for name, value in body.items() if name != gone}))
    odd = data.draw(texts.filter(lambda name: name not in type(contract).model_fields and name != "format"))
    refused(type(contract), json.dumps(body | {odd: 1}))


@given(contract=contracts, body=any_json)
@examples(60)
def test_other_json_in_its_place_is_refused(contract: Contract, body: object) -> None:
    if isinstance(body, dict) and isinstance(contract, KnowledgeVersions | Pending):
        body = {**body, "kind": 1}  # nothing, and any texts by texts, are such files
    refused(type(contract), json.dumps(body))


@given(contract=contracts, number=counts | texts | st.none() | st.booleans() | numbers)
@examples(60)
def test_another_format_is_refused(contract: Contract, number: object) -> None:
    kind = type(contract)
    if type(number) is int and number in kind.READABLE:
        return
    with pytest.raises(kind.ERROR) as error:
        kind.from_text(json.dumps(contract.as_json() | {"format": number}), FILE)
    assert str(error.value).startswith(f"{FILE}: format ")
    assert kind.REMAKE in str(error.value) or "a later llm4msr wrote it" in str(error.value)
