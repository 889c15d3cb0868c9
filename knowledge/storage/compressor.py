"""From raw reasoner vectors to what the model reads: standardise, and for users and items PCA.

The product with the components is done on integers held in float64, where every sum is exact. So a row has the same
bytes whatever stands beside it, on any number of threads and any BLAS: matrix, online store and push path agree.
Shapes: N rows, D raw width, K kept components, d output width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from core.digest import sha256_file, sha256_json
from core.errors import CorruptArtifactError, MissingArtifactError
from core.log import logger
from core.manifest import Built
from core.store import ArtifactStore
from core.window import Window

LOG = logger("knowledge")
FILE = "compressor.safetensors"
# Part of every key: raise it when fit or apply change their results.
ALGORITHM = 1
MAX_FIT_ROWS = 20_000
# |standardised| < 2**6 in steps of 2**-18, |component| <= 1 in steps of 2**-22: by Cauchy-Schwarz every partial sum is
# below 2**(24 + 22) * sqrt(D), which float64 holds exactly up to D = 16384.
_VALUE_BITS, _VALUE_LIMIT, _COMPONENT_BITS, _MAX_WIDTH = 18, 64.0, 22, 16_384


@dataclass(frozen=True)
class Compressor:
    """A fitted, frozen map [N, D] -> float32 [N, d].

    Attributes:
        mean: float64 [D].
        scale: float64 [D], 0 where the fitted rows do not vary.
        components: integer-valued float64 [D, K], unit columns in steps of 2**-22; None standardises only.
        gain: one factor that gives the fitted rows a mean square of 1 over their K columns.
        dim: d; columns from K on are zero.
    """

    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray | None
    gain: float
    dim: int

    def apply(self, raw: np.ndarray) -> np.ndarray:
        """Compress rows, float32 [N, d]; the bytes of a row do not depend on the other rows."""
        values = (np.asarray(raw, dtype=np.float64) - self.mean) * self.scale
        out = np.zeros((len(values), self.dim), dtype=np.float32)
        if self.components is None:
            out[:] = values
        elif self.components.shape[1]:
            exact = exact_product(values, self.components)  # [N, K]
            out[:, : exact.shape[1]] = exact * (self.gain * 2.0 ** -(_VALUE_BITS + _COMPONENT_BITS))
        return out

    def save(self, path: Path) -> None:
        """Write the tensors as safetensors."""
        tensors = {"mean": self.mean, "scale": self.scale, "gain": np.array([self.gain]), "dim": np.array([self.dim])}
        if self.components is not None:
            tensors["components"] = np.ascontiguousarray(self.components)
        save_file(tensors, path)

    @classmethod
    def load(cls, path: Path) -> Compressor:
        """Read what `save` wrote."""
        tensors = load_file(path)
        gain, dim = float(tensors["gain"][0]), int(tensors["dim"][0])
        return cls(tensors["mean"], tensors["scale"], tensors.get("components"), gain, dim)


def fit(raw: np.ndarray, dim: int | None) -> Compressor:
    """Fit on rows, on one thread, so that the number of threads does not show in the last bits.

    Args:
        raw: [N, D]; at most MAX_FIT_ROWS evenly spaced ones are used.
        dim: output width, zero-padded where the rows span less; None standardises only and keeps D.
    """
    if len(raw) > MAX_FIT_ROWS:
        raw = raw[np.linspace(0, len(raw) - 1, MAX_FIT_ROWS).astype(np.int64)]
    rows = np.asarray(raw, dtype=np.float64)
    width = rows.shape[1]
    if width > _MAX_WIDTH:
        raise ValueError(f"raw vectors of {width} numbers; the exact product allows {_MAX_WIDTH}")
    mean = rows.mean(axis=0) if len(rows) else np.zeros(width)
    deviation = rows.std(axis=0) if len(rows) else np.zeros(width)
    varies = deviation > 1e-6 * (1.0 + np.abs(mean))
    scale = np.where(varies, 1.0 / np.where(varies, deviation, 1.0), 0.0)
    if dim is None:
        return Compressor(mean, scale, None, 1.0, width)
    # Here, not above: serving applies a compressor, never fits one, and its image has neither this nor SciPy.
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        components, variances = _principal((rows - mean) * scale, dim)
    total = float(variances.sum())
    gain = float(np.sqrt(len(variances) / total)) if total > 0 else 1.0
    return Compressor(mean, scale, np.rint(components * 2.0**_COMPONENT_BITS), gain, dim)


def exact_product(values: np.ndarray, components: np.ndarray) -> np.ndarray:
    """Standardised rows times components as integers in units of 2**-40, float64 [N, K], free of rounding."""
    return np.rint(np.clip(values, -_VALUE_LIMIT, _VALUE_LIMIT) * 2.0**_VALUE_BITS) @ components


def kept_compressor(
    store: ArtifactStore,
    kind: str,
    recipe: Mapping[str, object],
    train_start: int,
    fitted_on: Callable[[], np.ndarray],
    dim: int | None,
) -> tuple[Compressor, str]:
    """The compressor of (kind, recipe, train_start): fitted and published once, then the same for every later window.

    Args:
        store: holds it as an artifact of stage `compressor`; a pin says which.
        kind: `item_text`, `pooled`, `prompt` or `scenario`.
        recipe: all that shapes the raw vectors: templates, reasoner, settings.
        train_start: microseconds; `fitted_on` must read rows before it only.
        fitted_on: gives what to fit on, [N, D]; asked only if there is none yet.
        dim: see `fit`.

    Returns:
        The compressor and the digest of its file.

    Raises:
        CorruptArtifactError: the published file was altered.
        MissingArtifactError: the pinned artifact was deleted.
    """
    settings = {"kind": kind, "recipe": recipe, "train_start": train_start, "dim": dim, "algorithm": ALGORITHM}

    def publish() -> dict[str, str]:
        raw = fitted_on()
        LOG.info("compressor %s: fitted on %s vectors before the training watermark", kind, f"{len(raw):,}")
        fitted = sha256_json({"shape": list(raw.shape), "bytes": _digest(raw)})
        manifest = store.build(
            "compressor",
            Window(),
            inputs={"fitted": fitted},
            settings=settings,
            rooms=["knowledge"],
            builder=lambda work: _publish(work, raw, dim, kind),
        )
        return {"object": manifest.path.name, "sha256": manifest.files[FILE]}

    name = f"compressor-{kind}-{sha256_json(settings)[:16]}"
    pinned = store.pin(name, publish)
    path = store.root / "objects" / "compressor" / pinned["object"] / FILE
    if not path.is_file():
        raise MissingArtifactError(f"{path} is gone; restore it, or delete {store.root / 'pins' / name}.json to refit")
    if sha256_file(path) != pinned["sha256"]:
        raise CorruptArtifactError(f"{path}: not the bytes that were published; restore it")
    return Compressor.load(path), pinned["sha256"]


def _publish(work: Path, raw: np.ndarray, dim: int | None, kind: str) -> Built:
    fit(raw, dim).save(work / FILE)
    return Built(rows={"fitted_on": len(raw)}, versions={"kind": kind})


def _principal(rows: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Leading principal directions [D, K] and their variances [K], largest first, signs fixed."""
    count, width = rows.shape
    top = min(dim, width, count - 1)
    if top < 1:
        return np.zeros((width, 0)), np.zeros(0)
    small = count < width  # the smaller of the two Gram matrices has the same non-zero spectrum
    gram = (rows @ rows.T if small else rows.T @ rows) / count
    from scipy.linalg import eigh

    values, vectors = eigh(gram, subset_by_index=[len(gram) - top, len(gram) - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    keep = values > max(values[0], 0.0) * 1e-9 if len(values) else values > 0
    values, vectors = values[keep], vectors[:, keep]
    directions = rows.T @ vectors if small else vectors
    directions = directions / np.linalg.norm(directions, axis=0)
    strongest = np.abs(directions).argmax(axis=0)
    return directions * np.sign(directions[strongest, np.arange(len(values))]), values


def _digest(raw: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(raw).tobytes()).hexdigest()
