"""Every name of Feast that this room uses. Importing Feast does three things to the process; here it does none of them.

- It sets `PROMETHEUS_MULTIPROC_DIR` for its own server, which would flip `prometheus_client` of the whole process.
- It compiles its classes a second time, with checks of every call's types: three of its six seconds.
- It imports torch, in case that somebody asks for features as tensors: one and a half.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, cast

import prometheus_client  # it looks at that variable once, when it is imported: before Feast sets it
import typeguard


@contextmanager
def _plainly() -> Iterator[None]:
    folder, check = os.environ.get("PROMETHEUS_MULTIPROC_DIR"), typeguard.typechecked
    typeguard.typechecked = _unchecked
    sys.modules.setdefault("feast.torch_wrapper", _torch_when_asked_for())
    try:
        yield
    finally:
        typeguard.typechecked = check
        if folder is None:
            os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)


def _unchecked(target: Any = None, **_: Any) -> Any:
    return target or _unchecked


def _torch_when_asked_for() -> ModuleType:
    wrapper = ModuleType("feast.torch_wrapper")
    vars(wrapper)["get_torch"] = lambda: import_module("torch")
    return wrapper


with _plainly():
    from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.data_format import ParquetFormat
    from feast.errors import FeatureViewNotFoundException
    from feast.feature_view import FeatureViewState
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
    from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
    from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
    from feast.infra.online_stores.helpers import _mmh3 as mmh3
    from feast.infra.online_stores.helpers import _redis_key as redis_key
    from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
    from feast.infra.online_stores.sqlite import SqliteOnlineStore, SqliteOnlineStoreConfig
    from feast.infra.online_stores.sqlite import _quote_id as quote_id
    from feast.infra.online_stores.sqlite import _table_id as table_id
    from feast.infra.registry.base_registry import BaseRegistry
    from feast.infra.registry.file import FileRegistryStore
    from feast.infra.registry.sql import SqlRegistryConfig
    from feast.on_demand_feature_view import OnDemandFeatureView
    from feast.protos.feast.core.Registry_pb2 import Registry
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value
    from feast.repo_config import MaterializationConfig, RegistryConfig
    from feast.types import Array, Bool, FeastType, Float32, Float64, Int32, Int64, String, UnixTimestamp
    from feast.utils import _convert_arrow_to_proto as convert_arrow_to_proto


def file_source(view: FeatureView) -> FileSource:
    """The file behind one of our views."""
    return cast(FileSource, view.batch_source)


__all__ = [
    "Array",
    "BaseRegistry",
    "Bool",
    "DuckDBOfflineStore",
    "DuckDBOfflineStoreConfig",
    "Entity",
    "EntityKey",
    "FeastType",
    "FeatureService",
    "FeatureStore",
    "FeatureView",
    "FeatureViewNotFoundException",
    "FeatureViewState",
    "Field",
    "FileRegistryStore",
    "FileSource",
    "Float32",
    "Float64",
    "Int32",
    "Int64",
    "MaterializationConfig",
    "OnDemandFeatureView",
    "ParquetFormat",
    "RedisOnlineStore",
    "RedisOnlineStoreConfig",
    "Registry",
    "RegistryConfig",
    "RepoConfig",
    "RetrievalJob",
    "RetrievalMetadata",
    "SqlRegistryConfig",
    "SqliteOnlineStore",
    "SqliteOnlineStoreConfig",
    "String",
    "UnixTimestamp",
    "Value",
    "ValueType",
    "convert_arrow_to_proto",
    "infer_event_timestamp_from_entity_df",
    "mmh3",
    "quote_id",
    "redis_key",
    "serialize_entity_key",
    "file_source",
    "table_id",
]
