"""The bundle: what training hands to serving.

    spec.json        the features, settings, views and versions the model reads
    vocabulary/      one parquet file of keys per one-hot feature
    weights.safetensors
    golden.json      raw rows with their scores: a loaded bundle must reproduce them
    metrics.json, curves.json
    manifest.json    the digest of every file

Loading needs no process group and unpickles nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.contracts.bundle_spec import BundleManifest, BundleMetrics, BundleSpec
from core.contracts.dataset_spec import FeatureSpec
from core.contracts.results import Epoch
from core.digest import sha256_file, sha256_json
from core.errors import BundleError
from core.files import write_json
from models.data import RequestBatch, TrainingData, request_batch_from_rows
from models.encoded import EncodedRows
from models.encoder import Encoder
from models.fused import FusedTables
from models.golden import Golden, GoldenBatch, GoldenScores
from models.inputs import part_name
from models.prepared import ItemScorer, PreparedItems
from models.ranker import Head, Parts
from models.vocabulary import Vocabulary

FORMAT = BundleSpec.READABLE[-1]
# Weights that bundles of an earlier format do not have.
_NEWER = ("slope", "shift", "trust", "base.weight", "base.bias")
GOLDEN_ROWS = 32
TOLERANCE = 1e-5
# Rows of a training table that are held as numbers at a time where no whole table has to be.
ENCODED_ROWS = 1 << 20


@dataclass(frozen=True)
class Scores:
    """Scores of B candidates.

    Args:
        probability: float64 [B].
        backbone_logit: float32 [B].
        scenario_logit: float32 [B]; the logit is the sum of both.
    """

    probability: np.ndarray
    backbone_logit: np.ndarray
    scenario_logit: np.ndarray


class Bundle:
    """A trained model, ready to score. Safe to call from several threads.

    Args:
        path: where it was read from.
        spec: spec.json.
        manifest: manifest.json.
        encoder: the feature code.
        tables: the embedding tables.
        head: the rest, in evaluation mode.
    """

    def __init__(
        self,
        path: Path,
        spec: BundleSpec,
        manifest: BundleManifest,
        encoder: Encoder,
        tables: FusedTables,
        head: Head,
    ) -> None:
        self.path, self.spec, self.manifest = path, spec, manifest
        self.encoder, self.tables, self.head = encoder, tables.eval(), head.eval()
        self._items = ItemScorer(encoder, self.tables, self.head)

    @property
    def name(self) -> str:
        return self.spec.name

    def score(self, batch: RequestBatch) -> Scores:
        """Score a request; the user's code and generated weights are made once per user.

        Raises:
            DataError: a scenario the model does not know.
        """
        with torch.inference_mode():
            bags, scenario = self.encoder.request_bags(batch)
            side = self.encoder.request_side(batch, scenario)
            return _scores(self.head(self.tables(bags, batch.user_index), side))

    def prepare_items(self, item: Mapping[str, Any], text: np.ndarray | None) -> PreparedItems:
        """Compute what depends on the items alone, ahead of the requests that rank them; arguments as `encode_items`."""
        return self._items.prepare(self.encoder.encode_items(item, text))

    def score_items(self, items: PreparedItems, rows: np.ndarray, scenario: str, user: RequestBatch) -> Scores:
        """As `score`, for prepared items and one user in one scenario.

        Args:
            items: the catalogue.
            rows: which of its items, int64 [B].
            scenario: of all rows.
            user: the user's side of a request, U = 1; its candidates are not read.

        Raises:
            DataError: a scenario the model does not know.
        """
        with torch.inference_mode():
            return _scores(self._items.score(items, rows, scenario, user))

    def score_rows(self, encoded: EncodedRows, index: np.ndarray) -> Scores:
        """Score rows of an encoded table: the offline path of the same model."""
        with torch.inference_mode():
            bags = encoded.bags(index)
            return _scores(self.head(self.tables(bags, np.arange(len(index))), encoded.side(index)))

    def check_golden(self) -> None:
        """Score the golden rows again.

        Raises:
            BundleError: a score differs by more than 1e-5.
        """
        golden = Golden.read(self.path)
        found = self.score(golden.batch.as_request())
        for name, expected in golden.scores:
            gap = float(np.abs(getattr(found, name) - np.asarray(expected)).max(initial=0.0))
            if not gap <= TOLERANCE:
                raise BundleError(
                    f"{self.path}: golden rows give another {name} (off by {gap:.2g}); this bundle was made by other "
                    "code or damaged; train again or take the previous bundle"
                )


def write_bundle(
    out: Path,
    data: TrainingData,
    encoder: Encoder,
    tables: Mapping[str, Tensor],
    head: Head,
    *,
    name: str,
    metrics: BundleMetrics,
    curves: Sequence[Epoch],
) -> None:
    """Write a bundle folder; equal models make equal bytes.

    Args:
        out: the folder, made here.
        data: the dataset it was trained on; golden rows are drawn from it.
        encoder: fitted feature code.
        tables: table -> float32 [rows, d].
        head: trained.
        name: the system's name.
        metrics: metrics.json.
        curves: curves.json.
    """
    (out / "vocabulary").mkdir(parents=True, exist_ok=True)
    _spec(data, encoder, head, name).write(out)
    for feature, vocabulary in encoder.vocabularies.items():
        pq.write_table(
            pa.table({"key": vocabulary.keys}), out / "vocabulary" / f"{part_name(feature)}.parquet", compression="zstd"
        )
    weights = {f"tables.{table}": value for table, value in tables.items()}
    weights |= {f"head.{key}": value.detach().cpu() for key, value in head.state_dict().items()}
    save_file({key: value.contiguous() for key, value in weights.items()}, out / "weights.safetensors")
    metrics.write(out)
    write_json(out / "curves.json", [epoch.model_dump() for epoch in curves])
    write_json(out / Golden.FILE, {})
    write_manifest(out, name)
    batch = request_batch_from_rows(data, _golden_rows(data))
    scores = load_bundle(out).score(batch)
    Golden(
        batch=GoldenBatch.of(batch),
        scores=GoldenScores(**{key: value.tolist() for key, value in scores.__dict__.items()}),
    ).write(out)
    write_manifest(out, name)


def load_bundle(path: Path) -> Bundle:
    """Read a bundle and check its files against the manifest.

    Raises:
        BundleError: a file is missing, altered, or of another format; the message names it.
    """
    path = Path(path)
    manifest = _verified_manifest(path)
    spec = BundleSpec.read(path)
    vocabularies = {
        feature: Vocabulary(
            pq.read_table(path / "vocabulary" / f"{part_name(feature)}.parquet").column("key").combine_chunks()
        )
        for feature in spec.encoder.layout.rows
    }
    encoder = Encoder.from_spec(spec.encoder, vocabularies)
    weights = load_file(path / "weights.safetensors")
    head = Head(spec.model, encoder.layout)
    given = {key.removeprefix("head."): t for key, t in weights.items() if key.startswith("head.")}
    unset = {name: value for name, value in head.state_dict().items() if name in _NEWER}
    head.load_state_dict({**unset, **given} if spec.format < FORMAT else given)
    found = {key.removeprefix("tables."): t for key, t in weights.items() if key.startswith("tables.")}
    return Bundle(path, spec, manifest, encoder, FusedTables(encoder.layout, found), head.requires_grad_(False))


def predict(bundle: Bundle, data: TrainingData, split: str, batch_size: int = 16_384) -> pa.Table:
    """Score all rows of a split; no more than ENCODED_ROWS of them are held as numbers at a time.

    Args:
        bundle: the model.
        data: a dataset with the columns and vector kinds the bundle reads.
        split: train, validation or test.
        batch_size: rows at a time.

    Returns:
        row_id, user_id, item_id, scenario, label, score, split, user_rows; in the dataset's order.
    """
    index = data.indices(split)
    scores = []
    for start in range(0, len(index), ENCODED_ROWS):
        part = replace(data, rows=data.rows.take(pa.array(index[start : start + ENCODED_ROWS])))
        encoded, places = bundle.encoder.encode(part), np.arange(part.rows.num_rows)
        chunks = (places[start : start + batch_size] for start in range(0, len(places), batch_size))
        scores += [bundle.score_rows(encoded, chunk).probability for chunk in chunks]
    columns = ["row_id", "user_id", "item_id", "scenario", "label", "split", "user_rows"]
    table = data.rows.select(columns).take(pa.array(index))
    score = pa.array(np.concatenate(scores) if scores else np.zeros(0), pa.float64())
    return table.add_column(5, "score", score)


def _scores(parts: Parts) -> Scores:
    backbone, scenario = parts.backbone, parts.scenario
    probability = torch.sigmoid(backbone.double() + scenario.double())
    return Scores(probability.numpy(), backbone.numpy(), scenario.numpy())


def _spec(data: TrainingData, encoder: Encoder, head: Head, name: str) -> BundleSpec:
    layout, spec = encoder.layout, data.spec
    read = [
        *layout.user_vectors,
        *(["scenario"] if layout.scenario_dim else []),
        *(["item_text"] if layout.item_dim else []),
    ]
    unread = spec.vectors.keys() - set(read)
    told = {field: getattr(spec, field) for field in FeatureSpec.model_fields}
    return BundleSpec(
        format=FORMAT,
        name=name,
        model=head.settings,
        encoder=encoder.as_spec(),
        **{
            **told,
            "vectors": {kind: spec.vectors[kind] for kind in read},
            "views": {view: columns for view, columns in spec.views.items() if view not in unread},
        },
    )


def _golden_rows(data: TrainingData) -> np.ndarray:
    """Rows spread over the validation rows."""
    rows = data.indices("validation")
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(GOLDEN_ROWS, len(rows))).astype(np.int64))]


def write_manifest(out: Path, name: str) -> None:
    """Write the digests of a bundle's files, which are as they should be."""
    files = {str(p.relative_to(out)): sha256_file(p) for p in _files(out)}
    BundleManifest(name=name, files=files, digest=sha256_json(files)).write(out)


def _verified_manifest(path: Path) -> BundleManifest:
    file = path / BundleManifest.FILE
    try:
        manifest = BundleManifest.read(path)
    except OSError as error:
        raise BundleError(f"{file}: no readable manifest ({error}); this is not a bundle") from error
    files = manifest.files
    for name, digest in files.items():
        file = path / name
        if not file.is_file():
            raise BundleError(f"{file}: missing from the bundle; copy it again or train again")
        if sha256_file(file) != digest:
            raise BundleError(f"{file}: not the bytes the manifest promises; copy the bundle again or train again")
    if extra := sorted({str(p.relative_to(path)) for p in _files(path)} - set(files)):
        raise BundleError(f"{path / extra[0]}: not part of the bundle; remove it")
    if manifest.digest != sha256_json(dict(files)):
        raise BundleError(f"{file}: its digest does not fit its list of files")
    return manifest


def _files(path: Path) -> Iterator[Path]:
    return (p for p in sorted(path.rglob("*")) if p.is_file() and p != path / BundleManifest.FILE)
