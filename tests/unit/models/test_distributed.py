"""Two real processes over gloo; all cases share one spawn, since importing is most of its cost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from core.digest import REPOSITORY
from core.settings import ModelSettings, TrainSettings
from models.data import load_dataset
from models.distributed import World, load_tables, process_group, unwrap, whole_tables
from models.embeddings import keyed_jagged
from models.encoder import Encoder
from models.fused import FusedTables
from models.loss import GradedLoss
from models.training import batches, build, train, validate

STEPS = 3


def model_settings():
    return ModelSettings(
        hidden=[16],
        tower=[8],
        embedding_dim=4,
        bottleneck=4,
        rank=3,
        dropout=0.0,
        embedding_dropout=0.0,
        knowledge_dropout=0.0,
    )


def run_steps(folder, world):
    """Some training steps with grades; returns the tables before and after, the scores of the validation rows, and the
    levels' lines.
    """
    data, model = load_dataset(folder), model_settings()
    settings = TrainSettings(batch_size=256, learning_rate=0.01, embedding_learning_rate=0.05)
    encoder = Encoder.fit(data, user_vectors=["user_pooled"], scenario_vectors=True)
    encoded, module = encoder.encode(data), build(encoder, model, settings, world, 256 * STEPS)
    start = whole_tables(module, world)
    rows = data.indices("train")[: 256 * STEPS]
    grade = encoded.label + np.arange(len(encoded.label)) % 3
    grade[::5] = np.nan
    criterion = GradedLoss([0.5, 1.5], 0.5, encoded.label[rows], grade[rows])
    groups = [{"params": unwrap(module).head.parameters()}, {"params": criterion.parameters(), "lr": 5.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    module.train()
    for index in batches(rows, encoded.scenario, 256, world, (1, 1)):
        logits = module(keyed_jagged(encoder.layout, encoded.bags(index), world.device), encoded.side(index))
        loss = criterion(logits, *(torch.from_numpy(each[index]) for each in (encoded.label, encoded.weight, grade)))
        optimizer.zero_grad()
        loss.backward()
        criterion.average_gradients(world.size)
        optimizer.step()
    scores = validate(module, encoder, encoded, data.indices("validation"), world)
    lines = torch.stack((criterion.slopes, criterion.shifts)).detach().numpy()
    return start, whole_tables(module, world), scores, lines


def worker(folder, out):
    """What each of the two processes does."""
    torch.set_num_threads(1)
    with process_group("cpu") as world:
        start, tables, scores, lines = run_steps(Path(folder), world)
        np.save(out / f"lines{world.rank}.npy", lines)
        if world.first:
            np.savez(out / "steps.npz", scores=scores, **{f"start.{k}": v for k, v in start.items()}, **tables)
    report = train(
        load_dataset(Path(folder)),
        model_settings(),
        TrainSettings(batch_size=256, epochs=2),
        out / "bundle",
        name="two",
    )
    (out / f"report{os.environ['RANK']}.json").write_text(json.dumps([epoch.model_dump() for epoch in report.curves]))


@pytest.fixture(scope="module")
def two(data_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("two")
    code = f"import sys; sys.path[:0] = {[str(REPOSITORY), str(Path(__file__).parent)]!r}; import pathlib, test_distributed"
    code += f"; test_distributed.worker({str(data_folder)!r}, pathlib.Path({str(out)!r}))"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--local-addr=127.0.0.1",
        "--nproc-per-node=2",
    ]
    (out / "worker.py").write_text(code)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*command, str(out / "worker.py")], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_two_processes_train_the_same_model_as_one(data_folder, two):
    with process_group("cpu") as world:
        start, tables, scores, lines = run_steps(data_folder, world)
    found = np.load(two / "steps.npz")
    for name, table in start.items():
        np.testing.assert_array_equal(found[f"start.{name}"], table)
    for name, table in tables.items():
        np.testing.assert_allclose(found[name], table, rtol=0, atol=2e-5)
    np.testing.assert_allclose(found["scores"], scores, rtol=0, atol=1e-4)
    for rank in (0, 1):
        np.testing.assert_allclose(np.load(two / f"lines{rank}.npy"), lines, rtol=0, atol=1e-5)
    assert np.abs(lines[0]).max() > 1e-2


def test_two_processes_write_one_bundle_and_agree_on_every_epoch(two):
    from models.bundle import load_bundle

    load_bundle(two / "bundle").check_golden()
    curves = [json.loads((two / f"report{rank}.json").read_text()) for rank in (0, 1)]
    assert curves[0] == curves[1]


def test_sharded_tables_equal_the_unsharded_ones(data_folder):
    """One lookup, two backends: TorchRec below a process group, and the matrix that serving uses."""
    data = load_dataset(data_folder)
    encoder = Encoder.fit(data, user_vectors=["user_pooled"], scenario_vectors=True)
    bags = encoder.encode(data).bags(np.arange(50))
    with process_group("cpu") as world:
        module = build(encoder, model_settings(), TrainSettings(), world, 1000)
        weights = {name: torch.randn_like(table) for name, table in whole_tables(module, world).items()}
        load_tables(module, weights)
        trained = unwrap(module).tables(keyed_jagged(encoder.layout, bags, torch.device("cpu"))).detach()
        again = whole_tables(module, World(0, 1, torch.device("cpu")))
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    served = FusedTables(encoder.layout, weights)(bags, np.arange(50))
    torch.testing.assert_close(served, trained, rtol=0, atol=1e-6)
