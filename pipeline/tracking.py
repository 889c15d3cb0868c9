"""Runs and model versions in MLflow: what was trained with what result, and which version is champion or challenger.

Without a server everything lives below the root: `tracking/mlflow.db` (SQLite) and `tracking/artifacts/`. Nothing is
sent anywhere else. A bundle is known by the digest of its files, so that recording it again changes nothing.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import Settings, wall
from core.addresses import past_proxies, shown
from core.digest import sha256_path
from core.errors import MissingArtifactError, StorageError
from core.filesystem import locked

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER = "champion", "challenger"
_DIGEST = "bundle_digest"
_SYSTEM = "mlflow.runName"
_BUNDLE = "bundle"
_BATCH = 500
_THREADS = threading.RLock()
_TURNS: list[Path] = []


@dataclass(frozen=True)
class RegisteredVersion:
    """A registered model version: its number, the digest of its bundle, its run, and where its files lie."""

    name: str
    version: int
    digest: str
    run_id: str
    source: str


def log_run(
    settings: Settings,
    name: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, Any],
    curves: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    bundle: Path,
) -> str:
    """Record a trained bundle as a run; the same bundle under the same name is one run.

    Args:
        settings: where MLflow is and which experiment is used.
        name: the run's name, e.g. the system that was trained.
        params: settings of the training; nested ones get dotted names.
        metrics: final measures; nested ones get dotted names, and what is not a number is left out.
        curves: measure -> one value a step, or one mapping of measures a step.
        bundle: folder whose files become the run's artifacts.

    Returns:
        The run's id.

    Raises:
        StorageError: MLflow cannot be reached or written.
        MissingArtifactError: there is no bundle folder.
    """
    digest = _digest(bundle)
    with _client(settings) as client:
        experiment = _experiment(client, settings)
        known = f"tags.{_DIGEST} = '{digest}' and tags.`{_SYSTEM}` = '{name}' and attributes.status = 'FINISHED'"
        if found := client.search_runs([experiment], known, max_results=1):
            return str(found[0].info.run_id)
        run_id: str = client.create_run(experiment, run_name=name, tags={_DIGEST: digest}).info.run_id
        try:
            _fill(client, run_id, params, metrics, curves)
            client.log_artifacts(run_id, str(bundle), _BUNDLE)
        except BaseException:
            client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id, "FINISHED")
        return run_id


def register(settings: Settings, bundle: Path, run_id: str | None, name: str) -> int:
    """Make a bundle a version of the registered model `name`; the same bundle is the same version.

    A new version gets the alias `challenger`.

    Args:
        settings: where MLflow is.
        bundle: the bundle's folder.
        run_id: its run; None: the bundle is recorded as a run of its own first, unless it is registered already.
        name: of the registered model.

    Returns:
        The version's number.

    Raises:
        StorageError: MLflow cannot be reached or written.
        MissingArtifactError: there is no bundle folder.
    """
    digest = _digest(bundle)
    with _client(settings) as client:
        for known in _versions(client, name):
            if known.tags.get(_DIGEST) == digest:
                return int(known.version)
        run = run_id or log_run(settings, name, {}, {}, {}, bundle)
        _ensure_model(client, name)
        source = f"{client.get_run(run).info.artifact_uri}/{_BUNDLE}"
        made = client.create_model_version(name, source, run, tags={_DIGEST: digest})
        client.set_registered_model_alias(name, CHALLENGER, str(made.version))
        return int(made.version)


def set_alias(settings: Settings, name: str, alias: str, version: int) -> None:
    """Point an alias (`champion`, `challenger`) at a version; a champion is no longer the challenger.

    Raises:
        StorageError: MLflow cannot be reached, or there is no such version.
    """
    with _client(settings) as client:
        client.set_registered_model_alias(name, alias, str(version))
        aliases = client.get_registered_model(name).aliases
        if alias == CHAMPION and int(aliases.get(CHALLENGER, -1)) == version:
            client.delete_registered_model_alias(name, CHALLENGER)


def champion(settings: Settings, name: str | None = None) -> RegisteredVersion | None:
    """The version that has the alias `champion`, or None.

    Args:
        settings: where MLflow is.
        name: of the registered model; None: the one the settings train.

    Raises:
        StorageError: MLflow cannot be reached.
    """
    return aliased(settings, CHAMPION, name)


def aliased(settings: Settings, alias: str, name: str | None = None) -> RegisteredVersion | None:
    """The version that has an alias, or None.

    Raises:
        StorageError: MLflow cannot be reached.
    """
    name = name or settings.model.name
    with _client(settings) as client:
        models = client.search_registered_models(f"name = '{name}'")
        version = models[0].aliases.get(alias) if models else None
        if version is None:
            return None
        found = client.get_model_version(name, str(version))
    digest = found.tags.get(_DIGEST, "")
    return RegisteredVersion(name, int(found.version), digest, found.run_id or "", found.source or "")


def tracking_uri(settings: Settings) -> str:
    """The MLflow server of the settings, or the SQLite file below the root."""
    return settings.tracking.url or f"sqlite:///{_folder(settings) / 'mlflow.db'}"


@contextmanager
def _client(settings: Settings) -> Iterator[MlflowClient]:
    """A client of the settings' store; MLflow's own errors become ours. Below a root one process at a time has one."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    uri = tracking_uri(settings)
    try:
        if settings.tracking.url:
            past_proxies(uri)
            yield MlflowClient(tracking_uri=uri, registry_uri=uri)
        else:
            with _turn(_folder(settings)):
                _make_database(_folder(settings))
                yield MlflowClient(tracking_uri=uri, registry_uri=uri)
    except (MlflowException, SQLAlchemyError) as error:
        first = shown(str(error).strip().splitlines()[0])
        advice = (
            "check tracking.url, that it can be reached, and its version"
            if settings.tracking.url
            else f"`mlflow db upgrade {uri}` brings an older database up to date; or move {_folder(settings)} away: "
            "the next run begins a new one, and the champion is registered again"
        )
        raise StorageError(f"MLflow at {shown(uri)} failed ({first}); {advice}") from error
    except OSError as error:
        raise StorageError(f"MLflow at {shown(uri)} cannot be reached or written ({shown(str(error))})") from error


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """One process at a time; what is called within a turn is part of it."""
    with _THREADS:
        if _TURNS:
            yield
            return
        with locked(folder / ".lock"):
            _TURNS.append(folder)
            try:
                yield
            finally:
                _TURNS.clear()


def _make_database(folder: Path) -> None:
    """MLflow makes its tables one by one, and cannot go on where it was killed: so beside their place, and whole."""
    file = folder / "mlflow.db"
    if file.is_file():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for left in folder.glob(".mlflow-*.db*"):
        left.unlink(missing_ok=True)
    scratch = folder / f".mlflow-{uuid.uuid4().hex}.db"
    store = SqlAlchemyStore(f"sqlite:///{scratch}", (folder / "artifacts").as_uri())
    store.engine.dispose()
    scratch.replace(file)


def _experiment(client: MlflowClient, settings: Settings) -> str:
    name = settings.tracking.experiment
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    place = None if settings.tracking.url else (_folder(settings) / "artifacts").as_uri()
    return str(client.create_experiment(name, artifact_location=place))


def _ensure_model(client: MlflowClient, name: str) -> None:
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)


def _versions(client: MlflowClient, name: str) -> Iterator[ModelVersion]:
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", max_results=200, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _fill(
    client: MlflowClient,
    run_id: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, Any],
    curves: Mapping[str, Any] | Sequence[Mapping[str, Any]],
) -> None:
    from mlflow.entities import Param

    listed = [Param(key, str(value)) for key, value in _flat(params)]
    for start in range(0, len(listed), 100):
        client.log_batch(run_id, params=listed[start : start + 100])
    points = _points(metrics, 0) + _curve_points(curves)
    for start in range(0, len(points), _BATCH):
        client.log_batch(run_id, metrics=points[start : start + _BATCH])


def _curve_points(curves: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Metric]:
    if isinstance(curves, Mapping):
        length = max((len(values) for values in curves.values() if isinstance(values, list)), default=0)
        curves = [
            {name: values[step] for name, values in curves.items() if isinstance(values, list) and step < len(values)}
            for step in range(length)
        ]
    return [point for step, body in enumerate(curves) for point in _points({"curve": body}, step)]


def _points(values: Mapping[str, Any], step: int) -> list[Metric]:
    from mlflow.entities import Metric

    now = wall().now_micros() // 1000
    return [
        Metric(key, float(value), now, step)
        for key, value in _flat(values)
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _digest(bundle: Path) -> str:
    if not bundle.is_dir():
        raise MissingArtifactError(f"there is no bundle at {bundle}; run `llm4msr train` first")
    return sha256_path(bundle)


def _folder(settings: Settings) -> Path:
    return settings.root.resolve() / "tracking"
