"""What training hands to serving beside the weights: a bundle's `spec.json`, `metrics.json` and `manifest.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict

from core.contracts.contract import SpecFile
from core.contracts.dataset_spec import FeatureSpec
from core.contracts.results import Quality
from core.errors import BundleError, Llm4msrError
from core.settings import ModelSettings


class DenseSpec(BaseModel):
    """A number: what stands for a missing one, and how it is scaled; see `models.dense.DenseFeature`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    log: bool
    fill: float
    mean: float
    scale: float


class LayoutSpec(BaseModel):
    """Which features there are, in order; see `models.inputs.Layout`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: tuple[str, ...]
    item: tuple[str, ...]
    rows: Mapping[str, int]
    history: bool
    dense: int
    scenarios: tuple[str, ...]
    user_vectors: Mapping[str, int]
    scenario_dim: int
    item_dim: int


class EncoderSpec(BaseModel):
    """The feature code without its vocabularies; see `models.encoder.Encoder`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: LayoutSpec
    user_dense: tuple[DenseSpec, ...]
    item_dense: tuple[DenseSpec, ...]
    history_length: int

    def with_rows(self, feature: str, count: int) -> Self:
        """Another number of rows in a feature's table."""
        layout = self.layout.model_copy(update={"rows": {**self.layout.rows, feature: count}})
        return self.model_copy(update={"layout": layout})


class BundleSpec(FeatureSpec):
    """Of a bundle; `vectors` and `views` name only what the model reads.

    Attributes:
        format: 1: without calibration; 2: without a base; 3: today's.
        name: the system, e.g. `knowledge`.
        model: what the model is made of.
        encoder: the feature code.
    """

    READABLE: ClassVar[tuple[int, ...]] = (1, 2, 3)
    REMAKE: ClassVar[str] = "train again or take the previous bundle"
    ERROR: ClassVar[type[Llm4msrError]] = BundleError

    format: int
    name: str
    model: ModelSettings
    encoder: EncoderSpec


class BundleFile(SpecFile):
    """Another file of a bundle."""

    REMAKE: ClassVar[str] = "copy the bundle again or train again"
    ERROR: ClassVar[type[Llm4msrError]] = BundleError


class BundleMetrics(BundleFile):
    """`metrics.json`: the epoch whose weights were kept, and what they came to on validation rows."""

    FILE: ClassVar[str] = "metrics.json"

    best_epoch: int
    validation: Quality


class BundleManifest(BundleFile):
    """`manifest.json`.

    Attributes:
        name: the system.
        files: name to SHA-256 of its bytes.
        digest: of `files`.
    """

    FILE: ClassVar[str] = "manifest.json"

    name: str
    files: Mapping[str, str]
    digest: str
