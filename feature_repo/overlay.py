"""Which stores Feast talks to: embedded (files and SQLite) or production (Redis, PostgreSQL), from our settings.

The offline store is always DuckDB, with our point-in-time join: Feast's own default drops training rows silently.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from core import Settings
from core.errors import SettingsError, StorageError
from feature_repo.feast_names import (
    BaseRegistry,
    FeatureStore,
    MaterializationConfig,
    RedisOnlineStoreConfig,
    RegistryConfig,
    RepoConfig,
    SqliteOnlineStoreConfig,
    SqlRegistryConfig,
)
from feature_repo.point_in_time import PointInTimeOfflineStoreConfig
from feature_repo.user_store import TIMEOUT_MS, WRITE_BATCH

CACHE_SECONDS = 300
# Longest wait for a database to take a connection, or to take note of what was sent; the address may say otherwise.
CONNECT_SECONDS = 3
# A SQL registry starts a thread that renews its copy and never ends, and keeps connections: one for all stores of a
# process. A forked process has neither the thread nor connections of its own.
_SQL_REGISTRIES: dict[tuple[int, str, str], BaseRegistry] = {}
_SQL_LOCK = threading.Lock()


def feast_folder(settings: Settings) -> Path:
    """Where registry, online store and online source files live: `root/feast`."""
    return settings.root.resolve() / "feast"


def open_store(settings: Settings, *, registry: Path | None = None, timeout_ms: int | None = None) -> FeatureStore:
    """A Feast store on the settings' overlay. All stores of a process share one SQL registry.

    Args:
        settings: whose `project`, `root`, `online` and `registry` count.
        registry: a private registry file instead of the shared one, for work that must see only its own
            definitions (the training table).
        timeout_ms: longest wait for Redis; the default is generous, for writers. Readers pass `online.timeout_ms`.

    Raises:
        SettingsError: the settings name a SQL registry without its address.
        StorageError: the SQL registry does not answer, and this process has not read it before.
    """
    store = FeatureStore(config=repo_config(settings, registry=registry, timeout_ms=timeout_ms))
    if isinstance(store.config.registry, SqlRegistryConfig):
        store._registry = _sql_registry(store)
    return store


def repo_config(settings: Settings, *, registry: Path | None = None, timeout_ms: int | None = None) -> RepoConfig:
    """The Feast configuration of an overlay; arguments as in `open_store`."""
    folder = feast_folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    return RepoConfig(
        project=settings.project,
        provider="local",
        repo_path=folder,
        registry=_registry(settings, folder, registry),
        online_store=_online(settings, folder, timeout_ms or TIMEOUT_MS),
        offline_store=PointInTimeOfflineStoreConfig(),
        entity_key_serialization_version=3,
        # All rows in one batch would be read; more than one Arrow chunk would be lost.
        materialization=MaterializationConfig(pull_latest_features=True, online_write_batch_size=WRITE_BATCH),
    )


def _sql_registry(store: FeatureStore) -> BaseRegistry:
    """This process's registry at the store's address, as new as the database can tell."""
    key = (os.getpid(), store.project, store.config.registry.path)
    with _SQL_LOCK:
        known = _SQL_REGISTRIES.get(key)
        if known is None:
            try:
                _SQL_REGISTRIES[key] = store.registry
            except (SQLAlchemyError, OSError) as error:
                raise StorageError(f"Feast registry of project {store.project}: {error}") from error
            return store.registry
    # A database that is away leaves what was read before: Feast logs the error and raises nothing.
    known.refresh()
    return known


def _registry(settings: Settings, folder: Path, private: Path | None) -> RegistryConfig:
    # Feast warns that the flag "typically has no effect" on a file registry; there it does have one.
    logging.getLogger("feast.repo_config").setLevel(logging.ERROR)
    shared: dict[str, Any] = {"serve_features_while_materializing": True, "cache_ttl_seconds": CACHE_SECONDS}
    if private is not None or settings.registry.kind == "file":
        whole = "feature_repo.registry_file.WholeFileRegistryStore"
        path = str(private or folder / "registry.db")
        return RegistryConfig(registry_type="file", registry_store_type=whole, path=path, **shared)
    if not settings.registry.url:
        raise SettingsError("registry.kind is sql: set registry.url, e.g. postgresql+psycopg://user@host:5432/feast")
    # `sync` would make the unlucky request at expiry wait for the database.
    # A pooled connection that the server closed meanwhile is replaced before it is used.
    engine: dict[str, Any] = {"echo": False, "pool_pre_ping": True}
    if settings.registry.url.startswith("postgresql"):
        # Else a database that answers nothing holds up a start for two minutes.
        limits = {"connect_timeout": CONNECT_SECONDS, "tcp_user_timeout": 1000 * CONNECT_SECONDS}
        engine["connect_args"] = {name: value for name, value in limits.items() if name not in settings.registry.url}
    return SqlRegistryConfig(path=settings.registry.url, cache_mode="thread", sqlalchemy_config_kwargs=engine, **shared)


def _online(settings: Settings, folder: Path, timeout_ms: int) -> Any:
    if settings.online.store == "sqlite":
        return SqliteOnlineStoreConfig(path=str(folder / "online.db"))
    seconds = timeout_ms / 1000
    address = settings.online.address.as_list(socket_timeout=seconds, socket_connect_timeout=seconds)
    # Feast's own check drops a correction that has the same timestamp; ours (in `online`) keeps the newer row.
    return RedisOnlineStoreConfig(connection_string=address, skip_dedup=True)
