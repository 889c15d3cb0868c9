import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from core.settings import ModelSettings, TrainSettings
from core.tables import TIMESTAMP
from models.backbones import Inputs, Shape, build_backbone
from models.data import TrainingData, load_dataset

SCENARIOS = ["home", "search", "detail"]


def write_dataset(
    folder: Path,
    *,
    rows: int = 3000,
    users: int = 60,
    items: int = 40,
    seed: int = 0,
    string_ids: bool = False,
    user_dim: int = 8,
) -> Path:
    """A small dataset artifact whose label depends on user, item, scenario and the user's vector."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, users, rows), rng.integers(0, items, rows)
    scenario = rng.choice(3, rows, p=[0.6, 0.3, 0.1])
    taste, quality = rng.normal(size=(users, 2)), rng.normal(size=(items, 2))
    logit = (taste[user] * quality[item]).sum(1) + quality[item, 0] + np.array([0.5, 0.0, -0.5])[scenario]
    label = (rng.random(rows) < 1 / (1 + np.exp(-2 * logit))).astype(np.int8)
    time = np.arange(rows, dtype=np.int64) * 1_000_000
    split = np.where(np.arange(rows) < rows * 0.1, "warmup", "train")
    split = np.where(np.arange(rows) >= rows * 0.7, "validation", split)
    split = np.where(np.arange(rows) >= rows * 0.85, "test", split)

    def name(prefix: str, ids: np.ndarray) -> pa.Array:
        return pa.array([f"{prefix}{i}" for i in ids]) if string_ids else pa.array(ids)

    log_user: list[int] = []
    log_item: list[int] = []
    position: list[int] = []
    history_end = np.zeros(rows, np.int64)
    seen = np.zeros(users, np.int64)
    for r in range(rows):
        history_end[r] = seen[user[r]]
        seen[user[r]] += label[r]
    for u in range(users):
        own = np.flatnonzero((user == u) & (label == 1))
        log_user += [u] * len(own)
        log_item += item[own].tolist()
        position += range(len(own))
    matrix = np.concatenate((taste, rng.normal(size=(users, user_dim - 2))), 1).astype(np.float32)
    counts = rng.integers(0, 9, rows)
    missing = rng.random(rows) < 0.1

    def nullable(values: np.ndarray, mask: np.ndarray) -> pa.Array:
        return pa.array(values, mask=mask)

    table = pa.table(
        {
            "row_id": pa.array(np.arange(rows)),
            "user_id": name("u", user),
            "item_id": name("i", item),
            "scenario": pa.array([SCENARIOS[s] for s in scenario]),
            "event_timestamp": pa.array(time, TIMESTAMP),
            "label": pa.array(label),
            "weight": pa.array(np.ones(rows, np.float32)),
            "split": pa.array(split),
            "gender": nullable(np.where(user % 2 == 0, "F", "M"), user == 3),
            "genre": pa.array([f"g{i % 5}" for i in item]),
            "year": nullable(1990.0 + item % 20, item == 4),
            "user_rows": nullable(counts, missing),
            "user_positives": nullable(counts // 2, missing),
            "user_rate": nullable((counts / 9).astype(np.float32), missing),
            "item_rows": pa.array(counts[::-1].copy()),
            "item_positives": pa.array(counts[::-1] // 2),
            "item_rate": pa.array((counts[::-1] / 9).astype(np.float32)),
            "history_end": nullable(history_end, history_end == 0),
            "user_pooled_row": nullable(user, user % 7 == 6),
            "scenario_row": nullable(scenario, scenario == 2),
            "item_text_row": nullable(item, item == 5),
        }
    )
    log = pa.table(
        {
            "user_id": name("u", np.array(log_user)),
            "position": pa.array(position, pa.int64()),
            "item_id": name("i", np.array(log_item)),
            "event_timestamp": pa.array(np.zeros(len(position), np.int64), TIMESTAMP),
        }
    )
    (folder / "vectors").mkdir(parents=True)
    pq.write_table(table, folder / "rows.parquet")
    pq.write_table(log, folder / "user_log.parquet")
    np.save(folder / "vectors/user_pooled.npy", matrix)
    np.save(folder / "vectors/scenario.npy", rng.normal(size=(3, 6)).astype(np.float32))
    np.save(folder / "vectors/item_text.npy", rng.normal(size=(items, 4)).astype(np.float32))
    spec = {
        "user_categorical": ["gender"],
        "user_dense": [],
        "item_categorical": ["genre"],
        "item_dense": ["year"],
        "scenarios": SCENARIOS,
        "history_length": 5,
        "prior_rate": 0.5,
        "prior_weight": 10.0,
        "vectors": {
            "user_pooled": {"dim": user_dim, "version": "v1"},
            "scenario": {"dim": 6, "version": "v1"},
            "item_text": {"dim": 4, "version": "v1"},
        },
        "views": {},
        "service": "ranker_1",
        "id_types": dict.fromkeys(("user_id", "item_id"), "string" if string_ids else "int64"),
        "train_start": 0,
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    return folder


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., Path]:
    return write_dataset


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset") / "d")


@pytest.fixture(scope="session")
def data(data_folder: Path) -> TrainingData:
    return load_dataset(data_folder)


@pytest.fixture(scope="session")
def string_data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return load_dataset(write_dataset(tmp_path_factory.mktemp("dataset") / "s", rows=800, string_ids=True))


@pytest.fixture
def model() -> ModelSettings:
    return ModelSettings(hidden=[16], tower=[8], embedding_dim=4, bottleneck=4, rank=3)


@pytest.fixture
def settings() -> TrainSettings:
    return TrainSettings(batch_size=256, epochs=3, embedding_eps=10.0)


# Small enough for an oracle, and no two widths alike that could be mistaken for each other.
SMALL_BACKBONES: dict[str, dict[str, Any]] = {
    "shared_bottom": {"hidden": [5], "tower": [4]},
    "omoe": {"hidden": [5, 4], "experts": 2, "tower": [3]},
    "mmoe": {"hidden": [5, 4], "experts": 2, "tower": [3]},
    "ple": {"hidden": [5, 4, 6], "specific": 2, "shared": 3, "tower": [3]},
    "aitm": {"hidden": [5], "tower": [4]},
    "star": {"hidden": [5, 4], "auxiliary": [4], "scenario_dim": 3},
    "sar_net": {"shared": 3, "specific": 2, "expert": 4, "hidden": [5]},
    "m2m": {"experts": 3, "expert": 4, "meta_layers": 2, "hidden": [5], "scenario_dim": 3},
    "adasparse": {"hidden": [5, 4], "scenario_dim": 3, "epsilon": 0.6},
    "adaptdhm": {"clusters": 2, "hidden": [5, 4]},
    "epnet": {"hidden": [5, 4], "gate": 6, "scenario_dim": 3},
    "ppnet": {"hidden": [5, 4]},
    "hamur": {"hidden": [5, 4], "hyper": [6], "k": 3, "adapter": 2},
    "m3oe": {"star": [5, 4], "hidden": [6], "experts": 2},
    "deepfm": {"hidden": [5, 4]},
}


@pytest.fixture
def make_backbone() -> Callable[..., tuple[torch.nn.Module, Inputs]]:
    """name, options -> a small backbone with disturbed weights, and 23 rows in no order of scenario."""

    def make(name: str, **options: Any) -> tuple[torch.nn.Module, Inputs]:
        torch.manual_seed(0)
        shape = Shape(inputs=10, scenarios=3, fields=4, dim=2, ids=(0, 2))
        settings = ModelSettings(backbone=name, dropout=0.0, backbone_options={**SMALL_BACKBONES[name], **options})
        module = build_backbone(settings, shape)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        return module, Inputs.of(torch.randn(23, 10), torch.randint(0, 3, (23,)), shape)

    return make


@pytest.fixture
def check_equations(make_backbone: Callable[..., tuple[torch.nn.Module, Inputs]]) -> Callable[..., None]:
    """Compare a backbone in evaluation with `oracle(w, x, s) -> logit`, one row at a time in double precision."""

    def check(name: str, oracle: Callable[..., float], **options: Any) -> None:
        module, inputs = make_backbone(name, **options)
        module(inputs)  # Moves running statistics away from their start.
        module.eval()
        w = {key: value.detach().double().numpy() for key, value in module.state_dict().items()}
        rows = zip(inputs.x.double().numpy(), inputs.scenario.tolist(), strict=True)
        expected = np.array([oracle(w, x, s) for x, s in rows])
        np.testing.assert_allclose(module(inputs).detach(), expected, rtol=1e-5, atol=1e-5)

    return check
