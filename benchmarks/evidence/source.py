"""MovieLens-1M as arrays, and text vectors of its items (computed once, kept outside the repository)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.errors import DataError
from core.settings import KnowledgeSettings

AGE_GROUPS = {1: "under 25", 18: "under 25", 25: "25 to 34", 35: "35 and older", 45: "35 and older"}
AGE_GROUPS |= {50: "35 and older", 56: "35 and older"}
AGE_SCENARIOS = ["under 25", "25 to 34", "35 and older"]
GENRE_SCENARIOS = ["Comedy", "Action", "Drama", "Horror", "Adventure", "Crime", "other"]
SENTENCES = {
    "under 25": "A film recommendation page for teenagers and students under 25 years of age.",
    "25 to 34": "A film recommendation page for young adults from 25 to 34 years of age.",
    "35 and older": "A film recommendation page for people of 35 years and older.",
    "Comedy": "A page of comedies: funny, light films to laugh at.",
    "Action": "A page of action films: fights, chases and suspense.",
    "Drama": "A page of dramas: serious films about people and their conflicts.",
    "Horror": "A page of horror films: frightening and dark.",
    "Adventure": "A page of adventure films: journeys, quests and far places.",
    "Crime": "A page of crime films: gangsters, detectives and heists.",
    "other": "A page of all other films: animation, documentaries, thrillers, musicals, westerns and more.",
}


@dataclass(frozen=True)
class Ratings:
    """The log in order of time; users and items are positions in the sorted ids. N rows, U users, I items.

    Args:
        user_ids: int64 [U].
        item_ids: int64 [I].
        user: int64 [N] into user_ids.
        item: int64 [N] into item_ids.
        label: int8 [N], 1 for more than three stars.
        stars: int8 [N], 1 to 5.
        seconds: int64 [N].
        users: gender, age, occupation, zip, each [U].
        texts: title and genres of each item, [I].
        first_genre: [I].
    """

    user_ids: np.ndarray
    item_ids: np.ndarray
    user: np.ndarray
    item: np.ndarray
    label: np.ndarray
    stars: np.ndarray
    seconds: np.ndarray
    users: dict[str, np.ndarray]
    texts: list[str]
    first_genre: np.ndarray

    def __len__(self) -> int:
        return len(self.label)


def read_ratings(folder: Path) -> Ratings:
    """Read ratings.dat, users.dat and movies.dat.

    Raises:
        DataError: a file is not there.
    """
    for name in ("ratings.dat", "users.dat", "movies.dat"):
        if not (folder / name).is_file():
            raise DataError("not found; give a folder with the files of MovieLens-1M", file=folder / name)
    rows = np.array([line.split("::") for line in _lines(folder / "ratings.dat")], np.int64)
    rows = rows[np.argsort(rows[:, 3], kind="stable")]
    people = {int(u): rest for u, *rest in (line.split("::") for line in _lines(folder / "users.dat"))}
    films = {int(m): rest for m, *rest in (line.split("::") for line in _lines(folder / "movies.dat"))}
    user_ids, user = np.unique(rows[:, 0], return_inverse=True)
    item_ids, item = np.unique(rows[:, 1], return_inverse=True)
    names = ("gender", "age", "occupation", "zip")
    users = {name: np.array([people[u][place] for u in user_ids.tolist()]) for place, name in enumerate(names)}
    known = [films[i] for i in item_ids.tolist()]
    return Ratings(
        user_ids=user_ids,
        item_ids=item_ids,
        user=user,
        item=item,
        label=(rows[:, 2] > 3).astype(np.int8),
        stars=rows[:, 2].astype(np.int8),
        seconds=rows[:, 3],
        users=users,
        texts=[f"{title}. {', '.join(genres.split('|'))}" for title, genres in known],
        first_genre=np.array([genres.split("|")[0] for _, genres in known]),
    )


def text_vectors(texts: list[str], cache: Path) -> np.ndarray:
    """Vectors of the packaged MiniLM, float16 [n, 384]; a text list that was read before is read from `cache`."""
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    path = cache / f"minilm_{digest}.npy"
    if not path.is_file():
        from knowledge.reasoners import make_reasoner

        cache.mkdir(parents=True, exist_ok=True)
        vectors = make_reasoner(KnowledgeSettings()).encode(texts)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, vectors)
        partial.rename(path)
    return np.load(path)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="latin-1").splitlines()
