"""A bundle without some of its users: their ids, their embeddings and their golden rows are taken out of it.

What remains of them is what the shared weights learned from everybody's rows, until the next training.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors.torch import load_file, save_file

from core.contracts.bundle_spec import BundleSpec
from core.errors import BundleError
from core.files import write_json
from core.forgotten import belongs
from models.bundle import TOLERANCE, load_bundle, write_manifest
from models.golden import Golden, GoldenBatch, GoldenScores
from models.inputs import USER_ID

_ASIDE, _WORK = ".forgetting", ".forgotten"


def users_in_bundle(path: Path, users: Collection[Any]) -> int:
    """How many of the users a bundle knows."""
    keys = pq.read_table(path / "vocabulary" / f"{USER_ID}.parquet")["key"]
    return int(pc.sum(belongs(keys, users)).as_py() or 0)


def forget_in_bundle(path: Path, users: Collection[Any]) -> int:
    """Take users out of a bundle; its folder is replaced by a whole other one. Returns how many it knew.

    Raises:
        BundleError: the bundle is damaged, or scores its other golden rows differently without them.
    """
    aside, work = path.with_name(path.name + _ASIDE), path.with_name(path.name + _WORK)
    if not path.is_dir() and aside.is_dir():  # killed between the two renames below
        aside.rename(path)
    for left in (aside, work):
        shutil.rmtree(left, ignore_errors=True)
    count = users_in_bundle(path, users)
    if not count:
        return 0
    shutil.copytree(path, work)
    _take_out(work, users)
    path.rename(aside)
    work.rename(path)
    shutil.rmtree(aside)
    return count


def _take_out(path: Path, users: Collection[Any]) -> None:
    name = load_bundle(path).manifest.name  # its files are what they should be
    file = path / "vocabulary" / f"{USER_ID}.parquet"
    keys = pq.read_table(file)["key"].combine_chunks()
    stay = pc.invert(belongs(keys, users))
    pq.write_table(pa.table({"key": keys.filter(stay)}), file, compression="zstd")
    weights = load_file(path / "weights.safetensors")
    # Row 0 is everybody unknown.
    rows = np.append(0, np.flatnonzero(stay.to_numpy(zero_copy_only=False)) + 1)
    weights[f"tables.{USER_ID}"] = weights[f"tables.{USER_ID}"][rows].contiguous()
    save_file(weights, path / "weights.safetensors")
    spec = BundleSpec.read(path)
    spec.model_copy(update={"encoder": spec.encoder.with_rows(USER_ID, len(rows))}).write(path)
    golden = Golden.read(path)
    batch, places = _without(golden.batch, users)
    write_json(path / Golden.FILE, {})
    write_manifest(path, name)
    found, scores = load_bundle(path).score(batch.as_request()), {}
    for score, before in golden.scores:
        now = getattr(found, score)
        gap = np.abs(now - np.asarray(before))
        gap[places] = 0.0
        if not gap.max(initial=0.0) <= TOLERANCE:
            raise BundleError(f"{path}: without the forgotten users other golden rows have another {score}")
        scores[score] = now.tolist()
    Golden(batch=batch, scores=GoldenScores(**scores)).write(path)
    write_manifest(path, name)


def _without(golden: GoldenBatch, users: Collection[Any]) -> tuple[GoldenBatch, list[int]]:
    """Golden rows of the users as rows of somebody of whom nothing is known, and which rows those are."""
    batch, hidden = golden.model_dump(), {str(user) for user in users}
    found = [place for place, user in enumerate(batch["user"][USER_ID]) if str(user) in hidden]
    for place in found:
        for column in batch["user"].values():
            column[place] = None
        batch["history"][place] = []
        for vectors in batch["user_vectors"].values():
            vectors[place] = None
    return GoldenBatch(**batch), [row for row, user in enumerate(batch["user_index"]) if user in found]
