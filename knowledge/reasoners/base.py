"""What every language-model backend offers, and nothing more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from core.errors import SettingsError

# Wraps the batches of an encoding, e.g. to show a bar.
Progress = Callable[[Iterable[Any]], Iterator[Any]]


class Reasoner(Protocol):
    """A frozen language model that turns a text into one vector."""

    @property
    def identity(self) -> str:
        """Hash of all that shapes its vectors: model, revision, layer, pooling, dtype, longest prompt."""

    @property
    def dim(self) -> int:
        """Length of its vectors."""

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """How many tokens each text has before any cut, int64 [n]."""

    def encode(self, texts: Sequence[str], progress: Progress = iter) -> np.ndarray:
        """Vectors of the texts in their order, float16 [n, dim].

        Raises:
            Interrupted: it failed when it had read some.
        """


@runtime_checkable
class AnsweringReasoner(Reasoner, Protocol):
    """A reasoner that writes an answer and pools the states it was written from; its identity holds all that shapes them."""

    def answer(self, texts: Sequence[str], progress: Progress = iter) -> tuple[np.ndarray, list[str]]:
        """Vectors, float16 [n, dim], and answers, both in the order of the texts.

        Raises:
            Interrupted: as `encode`.
        """


@dataclass(frozen=True)
class Finished:
    """What a reasoner had done of its texts when it failed.

    Attributes:
        rows: positions of the texts that were read, at least one.
        vectors: theirs, float16 [n, dim].
        answers: theirs, where the reasoner writes some.
    """

    rows: list[int]
    vectors: np.ndarray
    answers: list[str] | None = None


class Interrupted(Exception):  # noqa: N818
    """A reasoner failed when it had read some of its texts; who has kept those raises the cause."""

    def __init__(self, finished: Finished, cause: Exception) -> None:
        super().__init__(str(cause))
        self.finished, self.cause = finished, cause


def to_half(vectors: np.ndarray) -> np.ndarray:
    """Round to float16.

    Raises:
        SettingsError: a value is not finite or does not fit.
    """
    if not np.isfinite(vectors).all() or (np.abs(vectors) > np.finfo(np.float16).max).any():
        raise SettingsError(
            "the reasoner gave values that are not finite or beyond 65504; "
            "set knowledge.dtype to float32 or bfloat16, or pool another knowledge.layer"
        )
    return vectors.astype(np.float16)
