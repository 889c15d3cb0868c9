"""What the serving benchmark compares with: a BentoML service that does nothing, and ranking by the obvious path."""

from __future__ import annotations

import os
from typing import Any

import bentoml
import numpy as np

from bento.catalogue import load_catalogue
from core import load_settings
from core.contracts.pointers import BundlePointer, CataloguePointer
from core.errors import MissingArtifactError
from feature_repo import open_store
from models import RequestBatch, load_bundle

QUIET: dict[str, Any] = {"traffic": {"timeout": 30}, "logging": {"access": {"enabled": False}}}


@bentoml.service(name="noop", **QUIET)
class Noop:
    """Reads the same request as the ranker, does nothing, and answers with as many items."""

    @bentoml.api
    async def rank(self, user_id: int, scenario: str, candidates: list[int], k: int = 10) -> dict[str, Any]:
        items = [{"item_id": item, "title": "", "score": 0.5} for item in candidates[:k]]
        return {"user_id": user_id, "scenario": scenario, "items": items}


@bentoml.service(name="naive", **QUIET)
class Naive:
    """Feast's `get_online_features(...).to_dict()` for the user and for every item, then the model row by row.

    The model and its item text vectors are ours and in memory, so that the comparison is about the path alone.
    """

    def __init__(self) -> None:
        settings = load_settings(os.environ["LLM4MSR_SETTINGS"])
        champion, catalogue = BundlePointer.read(settings.root), CataloguePointer.read(settings.root)
        if champion is None or catalogue is None:
            raise MissingArtifactError(f"nothing was promoted below {settings.root}")
        self.bundle = load_bundle(champion.folder(settings.root))
        self.catalogue = load_catalogue(catalogue.folder(settings.root))
        self.store = open_store(settings)
        spec = self.bundle.spec
        names = {view: f"{view}_{version}" for view, version in spec.versions.items()}
        asked = {view: [f"{names.get(view, view)}:{c}" for c in columns] for view, columns in spec.views.items()}
        asked.pop("item_text", None)
        self.item_features = [f for view, refs in asked.items() if view.startswith("item_") for f in refs]
        self.user_vectors = [view for view in names if view.startswith("user_")]
        # Two vectors are both called `vector`: such features are asked for one view at a time.
        self.user_features = [
            f for view, refs in asked.items() if view.startswith("user_") and view not in names for f in refs
        ]
        self.vector_features = {view: asked[view][0] for view in (*self.user_vectors, "scenario") if view in asked}

    @bentoml.api
    def rank(self, user_id: int, scenario: str, candidates: list[int], k: int = 10) -> dict[str, Any]:
        """Rank the candidates for a user."""
        user = self._read(self.user_features, [{"user_id": user_id}])
        vectors = {
            view: self._read([feature], [{"scenario": scenario} if view == "scenario" else {"user_id": user_id}])
            for view, feature in self.vector_features.items()
        }
        items = self._read(self.item_features, [{"item_id": item} for item in candidates])
        scores = self.bundle.score(self._batch(scenario, candidates, user, vectors, items)).probability
        best = np.argsort(-scores)[:k]
        ranked = [{"item_id": candidates[i], "title": "", "score": float(scores[i])} for i in best]
        return {"user_id": user_id, "scenario": scenario, "items": ranked}

    def _read(self, features: list[str], rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        return self.store.get_online_features(features=features, entity_rows=rows).to_dict()

    def _batch(
        self,
        scenario: str,
        candidates: list[int],
        user: dict[str, list[Any]],
        vectors: dict[str, dict[str, list[Any]]],
        items: dict[str, list[Any]],
    ) -> RequestBatch:
        count = len(candidates)
        found = {view: body["vector"][0] for view, body in vectors.items()}
        rows, _ = self.catalogue.find(candidates)
        history = user.pop("history")[0] or []
        return RequestBatch(
            scenario=[scenario] * count,
            user={name: values * count for name, values in user.items()},
            user_index=np.arange(count),
            history=[list(history)] * count,
            item=items,
            user_vectors={view: self._repeat(view, found.get(view), count) for view in self.user_vectors},
            item_text=self.catalogue.text[rows],
            scenario_vectors={scenario: np.asarray(found["scenario"], np.float32)} if found.get("scenario") else {},
        )

    def _repeat(self, view: str, vector: list[float] | None, count: int) -> np.ndarray:
        unknown = np.full(self.bundle.spec.vectors[view].dim, np.nan, np.float32)
        return np.tile(unknown if vector is None else np.asarray(vector, np.float32), (count, 1))
