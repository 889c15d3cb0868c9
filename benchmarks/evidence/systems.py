"""The systems that are compared: what each may read, and which parts of the model it switches on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from benchmarks.evidence.protocol import Prepared
from core.errors import SettingsError
from models import TrainingData

STATISTICS = [f"{side}_{kind}" for side in ("user", "item") for kind in ("rows", "positives", "rate")]
ID_COPIES = 8  # times an embedding of 16: the width of a user vector


@dataclass(frozen=True)
class System:
    """What a system switches on.

    Args:
        user_level: the user's meta layer.
        scenario_level: the scenario's parallel meta tower.
        concatenated: user vectors as plain features.
        item_text: item text vectors as features.
        rates: smoothed rates and counts of user, item and user in scenario.
        history: the mean embedding of films the user liked.
        second_order: a factorisation machine beside the backbone, or a cross network.
        vectors: the true user vectors, those of another user, random ones, a learned id embedding, or none.
        embedding_dropout: whether embeddings are dropped out in training.
        graded: training also learns from the stars of its rows, which no model reads.
    """

    user_level: bool = False
    scenario_level: bool = False
    concatenated: bool = False
    item_text: bool = False
    rates: bool = False
    history: bool = False
    second_order: Literal["none", "fm", "dcn_v2"] = "none"
    vectors: Literal["real", "shuffled", "random", "id", "none"] = "none"
    embedding_dropout: bool = True
    graded: bool = False


PLAIN = System()
BOTH = System(user_level=True, scenario_level=True, vectors="real")
CONCAT = System(concatenated=True, vectors="real")
FULL = System(
    user_level=True,
    scenario_level=True,
    concatenated=True,
    item_text=True,
    rates=True,
    history=True,
    second_order="fm",
    vectors="real",
)
GRADED = replace(FULL, graded=True)
SYSTEMS: dict[str, System] = {
    "published": System(embedding_dropout=False),
    "plain": PLAIN,
    "user": System(user_level=True, vectors="real"),
    "scenario": System(scenario_level=True),
    "both": BOTH,
    "both_shuffled": replace(BOTH, vectors="shuffled"),
    "both_random": replace(BOTH, vectors="random"),
    "concat": CONCAT,
    "concat_shuffled": replace(CONCAT, vectors="shuffled"),
    "concat_random": replace(CONCAT, vectors="random"),
    "id": System(vectors="id"),
    "full": FULL,
    "full_shuffled": replace(FULL, vectors="shuffled"),
    "full_random": replace(FULL, vectors="random"),
    "full_concat": replace(FULL, user_level=False, scenario_level=False),
    "full_none": replace(FULL, user_level=False, concatenated=False, vectors="none"),
    "full_user": replace(FULL, scenario_level=False),
    "full_scenario": replace(FULL, user_level=False),
    "full_meta": replace(FULL, concatenated=False),
    "full_no_text": replace(FULL, item_text=False),
    "full_no_rates": replace(FULL, rates=False),
    "full_no_history": replace(FULL, history=False),
    "full_no_second_order": replace(FULL, second_order="none"),
    "full_no_dropout": replace(FULL, embedding_dropout=False),
    "full_dcn_v2": replace(FULL, second_order="dcn_v2"),
    "graded": replace(PLAIN, graded=True),
    "both_graded": replace(BOTH, graded=True),
    "full_graded": GRADED,
    "full_graded_shuffled": replace(GRADED, vectors="shuffled"),
    "full_graded_concat": replace(GRADED, user_level=False, scenario_level=False),
    "full_graded_none": replace(GRADED, user_level=False, concatenated=False, vectors="none"),
}


def find(name: str) -> System:
    """The system of a name.

    Raises:
        SettingsError: there is none.
    """
    if name not in SYSTEMS:
        raise SettingsError(f"no system {name!r}; there are {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


def model_changes(system: System, embedding_dropout: float, user_form: str, scenario_form: str) -> dict[str, Any]:
    """The fields of `core.settings.ModelSettings` that make the system."""
    return {
        "user_level": user_form if system.user_level else "none",
        "scenario_level": scenario_form if system.scenario_level else "none",
        "knowledge_features": system.concatenated,
        "second_order": system.second_order,
        "embedding_dropout": embedding_dropout if system.embedding_dropout else 0.0,
    }


def view(prepared: Prepared, system: System, seed: int, known_after: int = 0) -> TrainingData:
    """The training table as the system may see it.

    Args:
        prepared: everything.
        system: what to leave in it.
        seed: of the permutation of users, or of random vectors.
        known_after: rows of a user before its vectors are read; until then they count as unknown.
    """
    data = prepared.data
    rows, unread = data.rows, set()
    changed: dict[str, Any] = {}
    if system.rates:
        for side, names in prepared.extra.items():
            changed[side] = [*getattr(data.spec, side), *names]
    else:
        empty = pa.nulls(rows.num_rows, pa.float32())
        for name in STATISTICS:
            rows = rows.set_column(rows.column_names.index(name), name, empty)
    if not system.item_text:
        unread.add("item_text")
    if not system.history:
        changed["history_length"] = 0
    if not system.scenario_level:
        unread.add("scenario")
    if system.vectors in ("none", "id"):
        unread.add("user_pooled")
    if system.vectors == "id":
        copies = [f"user_copy_{number}" for number in range(ID_COPIES)]
        for name in copies:
            rows = rows.append_column(name, rows.column("user_id"))
        changed["user_categorical"] = [*changed.get("user_categorical", data.spec.user_categorical), *copies]
    if known_after:
        reference = np.where(prepared.rows_before >= known_after, rows.column("user_pooled_row").to_numpy(), -1)
        rows = rows.set_column(rows.column_names.index("user_pooled_row"), "user_pooled_row", pa.array(reference))
    if system.vectors == "shuffled":
        reference = shuffled(rows.column("user_pooled_row").to_numpy(), prepared.slots, seed)
        rows = rows.set_column(rows.column_names.index("user_pooled_row"), "user_pooled_row", pa.array(reference))
    vectors = {kind: matrix for kind, matrix in data.vectors.items() if kind not in unread}
    if system.vectors == "random":
        vectors["user_pooled"] = random(vectors["user_pooled"].shape, prepared.slots, seed)
    spec = data.spec.without_vectors(*unread).changed(**changed)
    return TrainingData(rows, data.user_log, vectors, spec)


def shuffled(reference: np.ndarray, slots: np.ndarray, seed: int) -> np.ndarray:
    """Each reference moved to another user's vector of the same place in line (or that user's last).

    Args:
        reference: rows of the matrix, int64 [N], -1: none.
        slots: where each user's vectors begin, int64 [U + 1].
        seed: of the permutation, among the users that have vectors.
    """
    counts = np.diff(slots)
    owners = np.flatnonzero(counts)
    partner = np.arange(len(counts))
    mixed = np.random.default_rng((7, seed)).permutation(owners)
    partner[mixed] = np.roll(mixed, 1)  # one cycle: nobody keeps an own vector
    owner = np.searchsorted(slots, np.maximum(reference, 0), side="right") - 1
    place = np.minimum(reference - slots[owner], counts[partner[owner]] - 1)
    return np.where(reference >= 0, slots[partner[owner]] + place, -1)


def random(shape: tuple[int, ...], slots: np.ndarray, seed: int) -> np.ndarray:
    """One normal vector per user, the same at all times, float32."""
    rng = np.random.default_rng((8, seed))
    return np.repeat(rng.normal(size=(len(slots) - 1, shape[1])).astype(np.float32), np.diff(slots), axis=0)
