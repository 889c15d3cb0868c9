"""Specs for tests: what a test does not say is as small as can be."""

from __future__ import annotations

from typing import Any

from core.contracts.bundle_spec import BundleSpec
from core.contracts.dataset_spec import DatasetSpec
from core.contracts.pointers import BundlePointer, Release

SMALLEST = {
    "user_categorical": [],
    "user_dense": [],
    "item_categorical": [],
    "item_dense": [],
    "scenarios": ["feed"],
    "history_length": 0,
    "prior_rate": 0.5,
    "vectors": {},
}


def dataset_spec(**fields: Any) -> DatasetSpec:
    """The spec of a training table."""
    return DatasetSpec.model_validate(SMALLEST | fields)


def bundle_spec(**fields: Any) -> BundleSpec:
    """The spec of a bundle without features."""
    layout = {"user": [], "item": [], "rows": {}, "history": False, "dense": 0, "scenarios": ["feed"]}
    layout |= {"user_vectors": {}, "scenario_dim": 0, "item_dim": 0}
    encoder = {"layout": layout, "user_dense": [], "item_dense": [], "history_length": 0}
    body = {"format": 3, "name": "knowledge", "model": {}, "encoder": encoder}
    return BundleSpec.model_validate(SMALLEST | body | fields)


def release(**fields: Any) -> Release:
    """A bundle that was made live."""
    body = {"bundle": "objects/train/ab/bundle_knowledge", "digest": "d", "model": "m", "version": 1}
    return Release.model_validate(body | {"promoted_at": "2026-01-01T00:00:00Z", "reason": "first"} | fields)


def pointer(previous: Release | None = None, **fields: Any) -> BundlePointer:
    """`current.json`."""
    return BundlePointer.of(release(**fields), previous)
