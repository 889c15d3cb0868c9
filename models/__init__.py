"""Models: feature encoding, TorchRec embeddings, backbones, meta networks, training, evaluation, bundles.

Knows tensors and Arrow tables; knows no feature store, no prompt and no HTTP. Names are imported on first use, so
that `import models` loads no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.attribution import Attribution, attribute
    from models.baseline import counting
    from models.bundle import Bundle, Scores, load_bundle, predict
    from models.choice import choose
    from models.controls import common_scenario, has_text, of_other_users, with_vectors, without_text
    from models.data import RequestBatch, TrainingData, load_dataset, request_batch_from_rows
    from models.evaluation import compare, evaluate
    from models.forget import forget_in_bundle, users_in_bundle
    from models.prepared import PreparedItems
    from models.promotion import Verdict, first_verdict, promotion_verdict
    from models.ranker import plain
    from models.training import TrainReport, train

_HOME = {
    "Attribution": "attribution",
    "Bundle": "bundle",
    "PreparedItems": "prepared",
    "RequestBatch": "data",
    "Scores": "bundle",
    "TrainReport": "training",
    "TrainingData": "data",
    "Verdict": "promotion",
    "attribute": "attribution",
    "choose": "choice",
    "common_scenario": "controls",
    "compare": "evaluation",
    "counting": "baseline",
    "evaluate": "evaluation",
    "first_verdict": "promotion",
    "forget_in_bundle": "forget",
    "has_text": "controls",
    "load_bundle": "bundle",
    "load_dataset": "data",
    "of_other_users": "controls",
    "plain": "ranker",
    "predict": "bundle",
    "promotion_verdict": "promotion",
    "request_batch_from_rows": "data",
    "train": "training",
    "users_in_bundle": "forget",
    "with_vectors": "controls",
    "without_text": "controls",
}

__all__ = [
    "Attribution",
    "Bundle",
    "PreparedItems",
    "RequestBatch",
    "Scores",
    "TrainReport",
    "TrainingData",
    "Verdict",
    "attribute",
    "choose",
    "common_scenario",
    "compare",
    "counting",
    "evaluate",
    "first_verdict",
    "forget_in_bundle",
    "has_text",
    "load_bundle",
    "load_dataset",
    "of_other_users",
    "plain",
    "predict",
    "promotion_verdict",
    "request_batch_from_rows",
    "train",
    "users_in_bundle",
    "with_vectors",
    "without_text",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'models' has no attribute {name!r}")
    return getattr(import_module(f"models.{_HOME[name]}"), name)
