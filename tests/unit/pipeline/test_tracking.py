import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from core import Settings
from core.errors import MissingArtifactError, StorageError
from pipeline import tracking

PARAMS = {"model": {"backbone": "star", "hidden": [128]}, "seed": 1}
METRICS = {"auc": 0.75, "gauc": None, "calibration": {"ratio": 1.5, "bins": []}, "name": "x"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """One database for the module: its schema takes seconds to create."""
    root = tmp_path_factory.mktemp("tracking")
    settings = Settings(root=root)
    bundle = make_bundle(root / "bundle_a", "a")
    run = tracking.log_run(settings, "knowledge", PARAMS, METRICS, {"loss": [0.7, 0.6], "auc": [0.6]}, bundle)
    return settings, bundle, run


def make_bundle(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(json.dumps({"content": content}))
    return folder


def client(settings):
    from mlflow import MlflowClient

    uri = tracking.tracking_uri(settings)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def test_a_run_holds_params_metrics_curves_and_the_bundle_below_root(prepared):
    settings, _, run_id = prepared
    run = client(settings).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"model.backbone": "star", "model.hidden": "[128]", "seed": "1"}
    assert run.data.metrics == {"auc": 0.75, "calibration.ratio": 1.5, "curve.loss": 0.6, "curve.auc": 0.6}
    steps = [(m.step, m.value) for m in client(settings).get_metric_history(run_id, "curve.loss")]
    assert steps == [(0, 0.7), (1, 0.6)]
    files = list(settings.root.rglob("artifacts/bundle/spec.json"))
    assert len(files) == 1
    assert files[0].is_relative_to(settings.root / "tracking")


def test_curves_may_be_given_step_by_step(prepared, tmp_path):
    settings, _, _ = prepared
    bundle = make_bundle(tmp_path / "b", "steps")
    run = tracking.log_run(settings, "plain", {}, {}, [{"loss": 3, "auc": None}, {"loss": 2}], bundle)
    assert client(settings).get_run(run).data.metrics == {"curve.loss": 2.0}


def test_the_same_bundle_is_one_run_and_one_version_and_another_is_the_next(prepared, tmp_path):
    settings, bundle, run = prepared
    assert tracking.log_run(settings, "knowledge", PARAMS, METRICS, {}, bundle) == run
    first = tracking.register(settings, bundle, run, "same")
    assert tracking.register(settings, bundle, run, "same") == first
    copy = make_bundle(tmp_path / "elsewhere", "a")
    assert tracking.register(settings, copy, None, "same") == first
    other = make_bundle(tmp_path / "other", "b")
    assert tracking.register(settings, other, None, "same") == first + 1


def test_a_new_version_is_the_challenger_until_it_is_the_champion(prepared, tmp_path):
    settings, bundle, run = prepared
    assert tracking.champion(settings, "roles") is None
    first = tracking.register(settings, bundle, run, "roles")
    assert tracking.champion(settings, "roles") is None
    assert tracking.aliased(settings, "challenger", "roles").version == first
    tracking.set_alias(settings, "roles", "champion", first)
    champion = tracking.champion(settings, "roles")
    assert (champion.version, champion.run_id) == (first, run)
    assert tracking.aliased(settings, "challenger", "roles") is None
    second = tracking.register(settings, make_bundle(tmp_path / "new", "c"), None, "roles")
    assert tracking.champion(settings, "roles").version == first
    assert tracking.aliased(settings, "challenger", "roles").version == second


def test_the_champions_files_lie_where_the_registry_says(prepared):
    settings, bundle, run = prepared
    tracking.set_alias(settings, "files", "champion", tracking.register(settings, bundle, run, "files"))
    source = Path(tracking.champion(settings, "files").source.removeprefix("file://"))
    assert (source / "spec.json").read_bytes() == (bundle / "spec.json").read_bytes()


def test_nothing_connects_anywhere(prepared, monkeypatch, tmp_path):
    settings, _, _ = prepared

    def refuse(self, address):
        raise AssertionError(f"connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    bundle = make_bundle(tmp_path / "b", "quiet")
    version = tracking.register(settings, bundle, None, "quiet")
    tracking.set_alias(settings, "quiet", "champion", version)
    assert tracking.champion(settings, "quiet").version == version


def test_a_password_within_the_address_of_a_server_is_in_no_message(tmp_path):
    url = "http://me:hunter2@127.0.0.1:9"
    with pytest.raises(StorageError, match="MLflow at http://me:\\*\\*\\*@127.0.0.1:9 failed") as raised:
        tracking.champion(Settings(root=tmp_path, tracking={"url": url}))
    assert "hunter2" not in str(raised.value)


def test_telemetry_is_off_in_a_fresh_process(prepared):
    settings, _, _ = prepared
    code = (
        f"from core import Settings; from pipeline import tracking; tracking.champion(Settings(root={str(settings.root)!r}))\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled; assert is_telemetry_disabled()\n"
        "from mlflow.telemetry.client import get_telemetry_client; assert get_telemetry_client() is None"
    )
    hidden = {"PYTEST_CURRENT_TEST", "CI", "MLFLOW_DISABLE_TELEMETRY"}
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    folder = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_missing_bundle_an_unknown_version_and_an_unreachable_store_are_clear_errors(prepared, tmp_path):
    settings, _, _ = prepared
    with pytest.raises(MissingArtifactError, match="no bundle at"):
        tracking.register(settings, tmp_path / "none", None, "ranker")
    with pytest.raises(StorageError, match="MLflow at sqlite"):
        tracking.set_alias(settings, "never_registered", "champion", 1)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StorageError, match="cannot be reached or written"):
        tracking.champion(Settings(root=blocked))
