"""A bundle of random weights, a catalogue and a reader, all made by hand: no store, no training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from specs import bundle_spec

from core.contracts.bundle_spec import BundleManifest
from core.contracts.pointers import PublishedCatalogue
from core.digest import sha256_file
from core.errors import StorageError
from core.manifest import Manifest, content_digest
from core.settings import ModelSettings
from feature_repo import OnlineReader, UserState

if TYPE_CHECKING:
    from bento.catalogue import Catalogue
    from bento.live import LiveModel
    from models.bundle import Bundle

SCENARIOS = ["home", "search"]
TEXT_DIM, USER_DIM, SCENARIO_DIM = 6, 5, 4
TITLES = ["Alpha", "Beta", None, "Delta", "Epsilon"]


def write_catalogue(
    folder: Path,
    *,
    ids: Sequence[int | str] = (11, 12, 13, 14, 15),
    text_version: str = "t1",
    columns: Sequence[str] = ("genre", "year"),
) -> PublishedCatalogue:
    """A catalogue artifact of five items; the third has neither title, statistics nor text. Returns its pointer."""
    folder.mkdir(parents=True)
    declared = {"genre": ["a", "b", None, "a", "c"], "year": [2000.0, None, 1990.0, 2010.0, 1980.0]}
    table = {
        "item_id": list(ids),
        "title": TITLES,
        "scenarios": [None, ["home"], ["home", "search"], ["search"], None],
        **{name: declared[name] for name in columns},
        "item_rows": [10, 20, None, 5, 40],
        "item_positives": [4, 15, None, 1, 9],
        "item_rate": [0.4, 0.75, None, 0.2, 0.225],
    }
    pq.write_table(pa.table(table), folder / "items.parquet")
    text = np.random.default_rng(3).normal(size=(5, TEXT_DIM)).astype(np.float32)
    text[2] = np.nan
    np.save(folder / "item_text.npy", text)
    rows = [{"scenario": s, "title": s.title(), "description": f"The {s} page."} for s in SCENARIOS]
    pq.write_table(pa.Table.from_pylist(rows), folder / "scenarios.parquet")
    (folder / "spec.json").write_text(json.dumps({"versions": {"item_text": text_version}, "as_of": 1_500_000_000}))
    manifest = Manifest(
        stage="catalogue",
        window={"start": None, "end": None},
        fingerprint="",
        inputs={},
        settings={},
        code="",
        rows={},
        versions={},
        files=(files := {path.name: sha256_file(path) for path in sorted(folder.iterdir())}),
        digest=content_digest(files, {}, {}),
        path=folder,
    )
    (folder / "manifest.json").write_text(json.dumps(manifest.as_json()))
    return PublishedCatalogue(catalogue=folder.name, digest=manifest.digest)


def make_bundle(
    item_ids: Sequence[Any] = (11, 12, 13, 14), string_ids: bool = False, text_version: str = "t1"
) -> Bundle:
    """A bundle with random weights; it never saw item 15 and has no golden rows."""
    from models.bundle import Bundle
    from models.dense import DenseFeature
    from models.encoder import Encoder
    from models.fused import FusedTables, table_rows
    from models.inputs import Layout
    from models.ranker import Head
    from models.vocabulary import Vocabulary

    torch.manual_seed(0)
    users = ["u1", "u2"] if string_ids else [1, 2]
    vocabularies = {
        "user_id": Vocabulary(pa.array(users)),
        "item_id": Vocabulary(pa.array(sorted(item_ids))),
        "genre": Vocabulary(pa.array(["a", "b"])),
    }
    layout = Layout(
        user=("user_id",),
        item=("item_id", "genre"),
        rows={name: vocabulary.size for name, vocabulary in vocabularies.items()},
        history=True,
        dense=7,
        scenarios=tuple(SCENARIOS),
        user_vectors={"user_pooled": USER_DIM},
        scenario_dim=SCENARIO_DIM,
        item_dim=TEXT_DIM,
    )

    def number(name: str, log: bool = False) -> DenseFeature:
        return DenseFeature(name, log, 0.5, 1.0, 2.0)

    user = [number("user_rows", True), number("user_positives", True), number("user_rate")]
    item = [
        DenseFeature("year", False, 1990.0, 1990.0, 20.0),
        number("item_rows", True),
        number("item_positives", True),
        number("item_rate"),
    ]
    encoder = Encoder(layout, vocabularies, user, item, history_length=3)
    settings = ModelSettings(hidden=[8], tower=[4], embedding_dim=4, bottleneck=4, scenario_level="gate")
    head = Head(settings, layout)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tables = FusedTables(layout, {name: torch.randn(rows, 4) for name, rows in table_rows(layout).items()})
    kind = "string" if string_ids else "int64"
    spec = bundle_spec(
        encoder=encoder.as_spec(),
        vectors={
            "user_pooled": {"dim": USER_DIM, "version": "p1"},
            "scenario": {"dim": SCENARIO_DIM, "version": "s1"},
            "item_text": {"dim": TEXT_DIM, "version": text_version},
        },
        scenarios=SCENARIOS,
        views={"user_stats": ["user_rows"]},
        id_types={"user_id": kind, "item_id": kind},
        item_categorical=["genre"],
        item_dense=["year"],
    )
    manifest = BundleManifest(name="knowledge", files={}, digest="bundle")
    return Bundle(Path("made-by-hand"), spec, manifest, encoder, tables, head.requires_grad_(False))


@dataclass
class Store:
    """What an online store would say; a reader of it is handed out by `reader`."""

    populated: bool = True
    dead: bool = False
    missing_columns: list[str] = field(default_factory=list)
    scenarios: dict[str, np.ndarray | None] = field(
        default_factory=lambda: {"home": np.ones(SCENARIO_DIM, np.float32), "search": None}
    )

    def reader(self, *_: Any) -> Reader:
        return Reader(self)


@dataclass
class Reader:
    """Stands in for OnlineReader where its states, not its store, are the point."""

    store: Store

    def read_scenarios(self, names: list[str]) -> dict[str, np.ndarray | None]:
        self._check()
        return {name: self.store.scenarios.get(name) for name in names}

    def missing_columns(self) -> list[str]:
        return self.store.missing_columns

    def populated(self, views: Any) -> bool:
        self._check()
        return self.store.populated

    def read_user(self, user_id: Any) -> UserState:
        self._check()
        return UserState.unknown(user_id)

    def _check(self) -> None:
        if self.store.dead:
            raise StorageError("online store: gone")


def make_live_model(bundle: Bundle, catalogue: Catalogue) -> LiveModel:
    """The live model of a bundle and a catalogue, with knowledge of one of two scenarios."""
    from bento.live import LiveModel, Origin, prepare_items
    from core import wall

    items, reduced = prepare_items(bundle, catalogue)
    vectors = {"home": np.ones(SCENARIO_DIM, np.float32)}
    reader = cast("OnlineReader", Store().reader())
    return LiveModel(bundle, catalogue, items, reader, wall(), vectors, Origin(Path("b"), "m", 1), True, reduced)
