"""A JSON file that one room writes and another reads: a frozen model with a format number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import CorruptArtifactError, Llm4msrError
from core.files import write_json


class Part(BaseModel):
    """A part of such a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Contract(BaseModel):
    """The content of such a file. A file without a `format` is of format 1.

    Attributes:
        READABLE: the formats that this code reads; the last is the one it writes.
        REMAKE: how a file that cannot be used is made anew, for the error.
        ERROR: what is raised where one cannot be used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
    READABLE: ClassVar[tuple[int, ...]] = (1,)
    REMAKE: ClassVar[str] = "run the stage that writes it again"
    ERROR: ClassVar[type[Llm4msrError]] = CorruptArtifactError

    @classmethod
    def from_text(cls, text: str, file: Path) -> Self:
        """The model of a file's text.

        Raises:
            ERROR: it is no such file, or of a format that this code does not read.
        """
        try:
            body = json.loads(text)
        except ValueError as error:
            found = "empty" if not text.strip() else f"not JSON ({error})"
            raise cls.ERROR(f"{file}: is {found}; {cls.REMAKE}") from error
        return cls.from_json(body, file)

    @classmethod
    def from_json(cls, body: Any, file: Path) -> Self:
        """The model of a file's decoded JSON; errors as of `from_text`."""
        if not isinstance(body, dict):
            raise cls.ERROR(f"{file}: holds no JSON object; {cls.REMAKE}")
        number = body.get("format", 1)
        if type(number) is not int or number not in cls.READABLE:
            known = ", ".join(map(str, cls.READABLE))
            later = type(number) is int and number > cls.READABLE[-1]
            mend = "a later llm4msr wrote it: use that one" if later else cls.REMAKE
            raise cls.ERROR(f"{file}: format {number}, this code reads {known}; {mend}")
        if "format" not in cls.model_fields:
            body = {name: value for name, value in body.items() if name != "format"}
        try:
            return cls.model_validate(cls.upgraded(body))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise cls.ERROR(f"{file}: {place}: {first['msg']}; {cls.REMAKE}") from error

    @classmethod
    def read_file(cls, file: Path) -> Self:
        """The model of a file.

        Raises:
            FileNotFoundError: it is not there.
            ERROR: as `from_text`.
        """
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise cls.ERROR(f"{file}: is not UTF-8 ({error}); {cls.REMAKE}") from error
        return cls.from_text(text, file)

    @classmethod
    def upgraded(cls, body: dict[str, Any]) -> dict[str, Any]:
        """A body of an earlier readable format as one of today's."""
        return body

    def as_json(self) -> dict[str, Any]:
        """What is written."""
        return self.model_dump(mode="json")


class SpecFile(Contract):
    """A contract that lies as `FILE` in the folder of what it describes."""

    FILE: ClassVar[str] = "spec.json"

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The spec of a folder; raises as `read_file`."""
        return cls.read_file(folder / cls.FILE)

    def write(self, folder: Path) -> None:
        """Write it into a folder."""
        write_json(folder / self.FILE, self.as_json())
