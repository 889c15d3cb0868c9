"""Entities, sources, feature views and services: one declaration per model generation, both services from it.

Each value has two views. `NAME` holds the value itself and is what the online store serves. Its twin `NAME_ref`
points at the full history of the same rows, and is what training joins: for vectors a row number of a matrix, for
histories an end offset into the user's log.

    view                      columns                                   source file
    user_features             declared user columns                     feast/sources/user_features.parquet
    user_features_ref         the same                                  users.parquet
    item_features[_ref]       title (value view), declared columns      items.parquet
    user_stats[_ref]          user_rows, user_positives, user_rate      user_stats/ (in segments)
    item_stats[_ref]          item_rows, item_positives, item_rate      item_stats/
    user_history              history: list of item ids, newest last    feast/sources/user_history.parquet
    user_history_ref          history_end                               user_history/
    user_pooled_V, user_prompt_V, scenario_V        vector              feast/sources/VIEW.parquet
    user_pooled_V_ref, ..., item_text_V_ref         kind, version, row  KIND/index/
    user_text, scenario_text  text, text_source, version                feast/sources/VIEW.parquet

Value views also hold `watermark` and `published` (the event time), as int64 microseconds: an online store keeps
event times in whole seconds. Stats, history and vector twins hold `watermark` and `event_timestamp` as timestamps.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core import Settings
from core.contracts.kinds import KEYS, KINDS, EntityName, find_kind
from core.contracts.knowledge_versions import KnowledgeVersions
from core.contracts.statistics import COUNTED, statistic_columns
from core.digest import sha256_json
from core.errors import SettingsError
from core.matrix import open_matrix
from core.segments import table_path
from feature_repo.feast_names import (
    Array,
    Bool,
    Entity,
    FeastType,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    Float32,
    Float64,
    Int32,
    Int64,
    ParquetFormat,
    String,
    UnixTimestamp,
    ValueType,
)
from feature_repo.overlay import feast_folder
from feature_repo.wire import safe

# Views without vectors, and whose they are.
_ENTITIES: dict[str, EntityName] = {
    "user_features": "user",
    "item_features": "item",
    "user_stats": "user",
    "item_stats": "item",
    "user_history": "user",
    "user_text": "user",
    "scenario_text": "scenario",
}
# Tables of the features artifact with a few rows an entity, beside those with all its states.
COUNTS = {"user_stats": "user_counts", "user_history": "user_counts", "item_stats": "item_counts"}
TIME_COLUMNS = ("event_timestamp", "created_timestamp")


@dataclass(frozen=True)
class Vector:
    """A vector kind of one version: `view` is its unversioned name, e.g. `user_pooled`."""

    view: str
    version: str
    dim: int

    @property
    def name(self) -> str:
        """The Feast view, e.g. `user_pooled_3f2a...`."""
        return f"{self.view}_{safe(self.version)}"

    @property
    def entity(self) -> EntityName:
        """`user`, `item` or `scenario`."""
        return entity_of(self.view)


@dataclass(frozen=True)
class Generation:
    """What one generation of models reads. Everything Feast knows of it is derived from here.

    Attributes:
        name: names the services `ranker_NAME` and `ranker_NAME_train`.
        user_id, item_id: `int64` or `string`.
        user_columns, item_columns: declared columns, name to Arrow type name.
        vectors: every vector kind, users' first.
        texts: views of text for people that exist: `user_text`, `scenario_text`.
        ttl: unversioned view name to seconds.
    """

    name: str
    user_id: str
    item_id: str
    user_columns: Mapping[str, str]
    item_columns: Mapping[str, str]
    vectors: tuple[Vector, ...]
    texts: tuple[str, ...] = ()
    ttl: Mapping[str, float] = field(default_factory=dict)

    @property
    def service(self) -> str:
        """The online service; the training service adds `_train`."""
        return f"ranker_{self.name}"

    @property
    def train_service(self) -> str:
        """The offline twin of `service`."""
        return f"{self.service}_train"

    def vector(self, view: str) -> Vector | None:
        """The vector kind of an unversioned view name."""
        return next((v for v in self.vectors if v.view == view), None)

    def columns(self) -> dict[str, tuple[str, ...]]:
        """Unversioned view name to the model's columns in it, for every view a model reads."""
        stats = {f"{entity}_stats": tuple(statistic_columns(entity)) for entity in COUNTED}
        views = {
            "user_features": tuple(self.user_columns),
            "item_features": tuple(self.item_columns),
            **stats,
            "user_history": ("history",),
            **{v.view: ("vector",) for v in self.vectors},
        }
        return {view: columns for view, columns in views.items() if columns}


@dataclass(frozen=True)
class SourcePaths:
    """The parquet files behind the views.

    Attributes:
        users, items: one file each, of all windows (see `dimension`).
        features: folder with user_stats, item_stats and user_history.
        knowledge: folder with KIND/index/, user_text/ and scenario_text.parquet.
        online: folder of the files that `materialize` writes, one per value view.
    """

    users: Path
    items: Path
    features: Path
    knowledge: Path
    online: Path

    def ref(self, view: str) -> Path:
        """The full history behind the unversioned view's `_ref` twin."""
        if view in ("user_features", "item_features"):
            return self.users if view == "user_features" else self.items
        if find_kind(view) is not None:
            return table_path(self.knowledge / view, "index")
        return table_path(self.knowledge if view.endswith("_text") else self.features, view)

    def ids(self, view: str) -> Path:
        """A table that names every entity of the unversioned view, smaller than its full history where there is one."""
        return table_path(self.features, COUNTS[view]) if view in COUNTS else self.ref(view)


def generation_of(settings: Settings, *, users: Path, items: Path, knowledge: Path) -> Generation:
    """The generation that the present settings and artifacts make.

    Args:
        settings: declared columns and time to live.
        users, items: parquet files; their schemas give the types of ids and columns.
        knowledge: artifact folder, with versions.json and the matrices.

    Raises:
        MissingArtifactError: the knowledge folder has no versions.json.
        SettingsError: a declared column is in neither file.
    """
    versions = KnowledgeVersions.read(knowledge).by_kind
    vectors = tuple(
        Vector(kind.view, versions[kind.name], _dim(knowledge / kind.view)) for kind in KINDS if kind.name in versions
    )
    user_schema, item_schema = pq.read_schema(users), pq.read_schema(items)
    data = settings.data
    body: dict[str, Any] = {
        "user_id": str(user_schema.field("user_id").type),
        "item_id": str(item_schema.field("item_id").type),
        "user_columns": _declared(user_schema, [*data.user_categorical, *data.user_dense], users),
        "item_columns": _declared(item_schema, [*data.item_categorical, *data.item_dense], items),
        "vectors": vectors,
        "texts": tuple(t for t in ("user_text", "scenario_text") if table_path(knowledge, t).exists()),
        "ttl": {view: age.total_seconds() for view, age in sorted(settings.features.ttl.items())},
    }
    identity = {**body, "vectors": [asdict(v) for v in vectors], "history_length": settings.features.history_length}
    return Generation(name=sha256_json(identity)[:12], **body)


def entity_objects(generation: Generation) -> dict[str, Entity]:
    """user, item and scenario."""
    kinds = {"user": generation.user_id, "item": generation.item_id, "scenario": "string"}
    return {
        name: Entity(name=name, join_keys=[KEYS[name]], value_type=_value_type(kind)) for name, kind in kinds.items()
    }


def value_views(generation: Generation, paths: SourcePaths) -> dict[str, FeatureView]:
    """Unversioned view name to the view that is served online; item text vectors live in the catalogue instead."""
    times = [Field(name="watermark", dtype=Int64), Field(name="published", dtype=Int64)]
    views = {}
    for view, fields in _value_fields(generation).items():
        name = online_name(generation, view)
        source = _source(name, paths.online / f"{name}.parquet")
        views[view] = _view(generation, view, name, [*fields, *times], source, online=True)
    return views


def online_views(settings: Settings, generation: Generation, paths: SourcePaths) -> dict[str, FeatureView]:
    """The value views that are written online: texts only where the service explains, items only where the settings ask."""
    found = value_views(generation, paths)
    if not settings.serving.explain:
        found = {view: one for view, one in found.items() if not view.endswith("_text")}
    if not settings.online.items:
        found = {view: one for view, one in found.items() if entity_of(view) != "item"}
    return found


def ref_views(generation: Generation, paths: SourcePaths) -> dict[str, FeatureView]:
    """Unversioned view name to its `_ref` twin, which training joins point in time."""
    views = {}
    for view, fields in _ref_fields(generation).items():
        name = f"{online_name(generation, view)}_ref"
        views[view] = _view(generation, view, name, fields, _source(name, paths.ref(view)), online=False)
    return views


def services(
    generation: Generation, values: Mapping[str, FeatureView], refs: Mapping[str, FeatureView]
) -> tuple[FeatureService, FeatureService]:
    """The online service and its training twin, over the same views in the same order."""
    read = [view for view in generation.columns() if view in values]
    online = FeatureService(name=generation.service, features=[values[view] for view in read])
    train = FeatureService(name=generation.train_service, features=[refs[view] for view in generation.columns()])
    return online, train


def objects(generation: Generation, paths: SourcePaths, *, train_only: bool = False) -> list:
    """Everything Feast should know of a generation, ready for `FeatureStore.apply`."""
    refs = ref_views(generation, paths)
    entities = list(entity_objects(generation).values())
    if train_only:
        train = FeatureService(name=generation.train_service, features=[refs[v] for v in generation.columns()])
        return [*entities, *refs.values(), train]
    values = value_views(generation, paths)
    return [*entities, *values.values(), *refs.values(), *services(generation, values, refs)]


def online_name(generation: Generation, view: str) -> str:
    """The Feast name of an unversioned view: vector views carry their version."""
    vector = generation.vector(view)
    return vector.name if vector is not None else view


def ref_name(generation: Generation, view: str) -> str:
    """The Feast name of the training twin of an unversioned view."""
    return f"{online_name(generation, view)}_ref"


def entity_of(view: str) -> EntityName:
    """Whose rows an unversioned view holds: `user`, `item` or `scenario`."""
    kind = find_kind(view)
    return kind.entity if kind is not None else _ENTITIES[view]


def stored_type(name: str) -> pa.DataType:
    """The type that a column is stored as in views, from the name of its Arrow type.

    Raises:
        SettingsError: the type cannot be a feature.
    """
    if match := re.fullmatch(r"list<\w+: (.+?)(?: not null)?>", name):
        return pa.list_(stored_type(match[1]))
    if name.startswith("dictionary"):
        return pa.string()
    try:
        return _STORED[name]
    except KeyError:
        raise SettingsError(f"a column of type {name} cannot be a feature; cast it to text or a number") from None


def feast_type(name: str) -> FeastType:
    """The Feast type of a column, from the name of its Arrow type.

    Raises:
        SettingsError: the type cannot be a feature.
    """
    kind = stored_type(name)
    return Array(_FEAST[kind.value_type]) if pa.types.is_list(kind) else _FEAST[kind]


_STORED = {
    "string": pa.string(),
    "large_string": pa.string(),
    "bool": pa.bool_(),
    "float": pa.float32(),
    "double": pa.float64(),
    "int8": pa.int32(),
    "int16": pa.int32(),
    "int32": pa.int32(),
    "int64": pa.int64(),
}
_FEAST = {
    pa.string(): String,
    pa.bool_(): Bool,
    pa.float32(): Float32,
    pa.float64(): Float64,
    pa.int32(): Int32,
    pa.int64(): Int64,
}


def _value_fields(generation: Generation) -> dict[str, list[Field]]:
    items = {"title": "string", **generation.item_columns}
    history = Array(feast_type(generation.item_id))
    views: dict[str, list[Field]] = {
        "user_features": _fields(generation.user_columns),
        "item_features": _fields(items),
        "user_stats": _stat_fields("user"),
        "item_stats": _stat_fields("item"),
        "user_history": [Field(name="history", dtype=history)],
    }
    for vector in generation.vectors:
        if vector.entity != "item":
            views[vector.view] = [Field(name="vector", dtype=Array(Float32), vector_length=vector.dim)]
    for text in generation.texts:
        views[text] = _fields({"text": "string", "text_source": "string", "version": "string"})
    return {view: fields for view, fields in views.items() if fields}


def _ref_fields(generation: Generation) -> dict[str, list[Field]]:
    # The event time as a feature: the gate checks that nothing was joined before it was published.
    times = [Field(name=name, dtype=UnixTimestamp) for name in ("watermark", "event_timestamp")]
    views: dict[str, list[Field]] = {
        "user_features": _fields(generation.user_columns),
        "item_features": _fields(generation.item_columns),
        "user_stats": [*_stat_fields("user"), *times],
        "item_stats": [*_stat_fields("item"), *times],
        "user_history": [Field(name="history_end", dtype=Int64), *times],
    }
    for vector in generation.vectors:
        views[vector.view] = [*_fields({"kind": "string", "version": "string", "row": "int64"}), *times]
    return {view: fields for view, fields in views.items() if fields}


def _stat_fields(entity: str) -> list[Field]:
    return _fields({column: str(pa.type_for_alias(s.type)) for column, s in statistic_columns(entity).items()})


def _fields(columns: Mapping[str, str]) -> list[Field]:
    return [Field(name=name, dtype=feast_type(kind)) for name, kind in columns.items()]


def _view(
    generation: Generation, view: str, name: str, fields: list[Field], source: FileSource, *, online: bool
) -> FeatureView:
    entity = entity_objects(generation)[entity_of(view)]
    key = KEYS[entity.name]
    kinds = {"user_id": generation.user_id, "item_id": generation.item_id, "scenario": "string"}
    return FeatureView(
        name=name,
        entities=[entity],
        schema=[Field(name=key, dtype=feast_type(kinds[key])), *fields],
        source=source,
        ttl=dt.timedelta(seconds=generation.ttl.get(view, 0)),
        online=online,
        tags={"view": view},
    )


def _source(name: str, path: Path) -> FileSource:
    return FileSource(
        name=f"{name}_source",
        path=str(path.resolve()),
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )


def _value_type(kind: str) -> ValueType:
    return ValueType.INT64 if kind == "int64" else ValueType.STRING


def _declared(schema: pa.Schema, columns: list[str], file: Path) -> dict[str, str]:
    for column in columns:
        if column not in schema.names:
            raise SettingsError(f"the settings declare column {column!r}, which {file} does not hold")
    return {column: str(schema.field(column).type) for column in columns}


def _dim(folder: Path) -> int:
    return int(open_matrix(folder / "vectors.npy").shape[1])


def shared_paths(settings: Settings, *, users: Path, items: Path, features: Path, knowledge: Path) -> SourcePaths:
    """The files behind the shared registry: artifacts, and `root/feast/sources` for the value views."""
    return SourcePaths(users, items, features, knowledge, feast_folder(settings) / "sources")


def apply(store: FeatureStore, generation: Generation, paths: SourcePaths, *, train_only: bool = False) -> None:
    """Tell a store's registry of a generation; others stay as they are."""
    store.apply(objects(generation, paths, train_only=train_only))
