from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from core import ArtifactStore
from core.errors import CorruptArtifactError, MissingArtifactError
from knowledge.storage.compressor import Compressor, exact_product, fit, kept_compressor


def rows(count: int, width: int = 40, seed: int = 1) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (
        random.normal(size=(count, 6)) @ random.normal(size=(6, width)) + 0.1 * random.normal(size=(count, width)) + 3
    )


def test_a_row_has_the_same_bytes_alone_and_in_any_batch_on_any_number_of_threads() -> None:
    compressor, many = fit(rows(300, 700), 64), rows(200, 700, seed=2)
    with threadpool_limits(1):
        expected = compressor.apply(many)
    assert np.array_equal(compressor.apply(many[::-1])[::-1], expected)
    assert all(np.array_equal(compressor.apply(many[i : i + 1])[0], expected[i]) for i in range(200))


def test_products_are_exact_whatever_the_order_of_the_sums() -> None:
    components = fit(rows(300, 700), 64).components
    assert components is not None
    values, shuffled = rows(50, 700, seed=2) * 20, np.random.default_rng(4).permutation(700)
    expected = exact_product(values, components)
    assert np.array_equal(exact_product(values[:, shuffled], components[shuffled]), expected)
    assert all(np.array_equal(exact_product(values[i : i + 1], components)[0], expected[i]) for i in range(50))


def test_it_is_principal_components_of_the_standardised_rows() -> None:
    raw = rows(300)
    standard = (raw - raw.mean(0)) / raw.std(0)
    left, values, _ = np.linalg.svd(standard, full_matrices=False)
    expected = left[:, :5] * values[:5]
    out = fit(raw, 5).apply(raw)
    expected *= np.sign((expected * out).sum(0)) / np.sqrt((expected**2).mean())
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_fewer_rows_than_columns_give_the_same_directions_as_the_other_gram_matrix() -> None:
    raw = rows(30)
    out = fit(raw, 100).apply(raw)
    standard = (raw - raw.mean(0)) / raw.std(0)
    np.testing.assert_allclose(
        (out**2).sum(1) / (standard**2).sum(1), (out[0] ** 2).sum() / (standard[0] ** 2).sum(), rtol=1e-3
    )
    assert out.shape == (30, 100)
    assert (out[:, 29:] == 0).all()
    assert (out[:, :29].std(0) > 0).all()


def test_fitting_again_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, threads in (("a", 1), ("b", 2)):
        with threadpool_limits(threads):
            fit(rows(300), 16).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert np.array_equal(Compressor.load(tmp_path / "a").apply(rows(9)), fit(rows(300), 16).apply(rows(9)))


def test_standardising_alone_keeps_the_width_and_silences_what_does_not_vary() -> None:
    raw = rows(50)
    raw[:, 3] = 7.0
    out = fit(raw, None).apply(raw)
    np.testing.assert_allclose(np.delete(out.std(0), 3), 1.0, atol=1e-5)
    assert (out[:, 3] == 0).all()


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_rows_to_fit_give_zeros_and_not_noise(count: int) -> None:
    assert (fit(rows(5)[:count], 4).apply(rows(5)) == 0).all()


def test_the_first_fit_is_kept_for_the_same_recipe_and_start(tmp_path: Path) -> None:
    store, probe = ArtifactStore(tmp_path), rows(4, seed=9)
    first, digest = kept_compressor(store, "pooled", {"a": 1}, 10, lambda: rows(50), 4)
    later, again = kept_compressor(store, "pooled", {"a": 1}, 10, lambda: rows(90, seed=5), 4)
    assert digest == again
    assert np.array_equal(first.apply(probe), later.apply(probe))
    others = [("prompt", {"a": 1}, 10), ("pooled", {"a": 2}, 10), ("pooled", {"a": 1}, 11)]
    assert all(kept_compressor(store, *other, lambda: rows(90, seed=5), 4)[1] != digest for other in others)


def test_an_altered_or_deleted_compressor_is_never_used(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    kept_compressor(store, "pooled", {}, 10, lambda: rows(50), 4)
    file = next((tmp_path / "objects" / "compressor").rglob("*.safetensors"))
    body = file.read_bytes()
    file.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    with pytest.raises(CorruptArtifactError):
        kept_compressor(store, "pooled", {}, 10, lambda: rows(50), 4)
    file.unlink()
    with pytest.raises(MissingArtifactError, match="restore it"):
        kept_compressor(store, "pooled", {}, 10, lambda: rows(50), 4)
