"""`versions.json` of a knowledge artifact: which version of each kind it holds."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import ConfigDict

from core.contracts.contract import SpecFile
from core.errors import CorruptArtifactError, MissingArtifactError


class KnowledgeVersions(SpecFile):
    """Kind name, as in `core.contracts.kinds`, to the version of its vectors: each is a field of its own."""

    model_config = ConfigDict(frozen=True, extra="allow")
    FILE: ClassVar[str] = "versions.json"
    REMAKE: ClassVar[str] = "delete the artifact and run `llm4msr knowledge` again"
    __pydantic_extra__: dict[str, str]

    @property
    def by_kind(self) -> dict[str, str]:
        """All of them."""
        return dict(self.__pydantic_extra__)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Those of an artifact's folder.

        Raises:
            MissingArtifactError: it has none.
            CorruptArtifactError: they cannot be used.
        """
        try:
            return super().read(folder)
        except FileNotFoundError as error:
            raise MissingArtifactError(f"{folder} holds no {cls.FILE}; run `llm4msr knowledge` first") from error

    @classmethod
    def of(cls, folder: Path, kind: str) -> str:
        """The version of one kind in an artifact's folder; raises as `read`, also where it is not named."""
        found = cls.read(folder).by_kind
        if kind not in found:
            raise CorruptArtifactError(f"{folder / cls.FILE}: {kind}: missing; {cls.REMAKE}")
        return found[kind]
