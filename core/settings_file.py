"""From a YAML file and the environment to `Settings`; every mistake is named with the setting and where it stands."""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings.exceptions import SettingsError as UnreadableVariable

from core.errors import SettingsError
from core.settings import Settings
from core.words import did_you_mean

_PREFIX = "LLM4MSR_"
_SHOWN = 60


def load_settings(path: str | Path) -> Settings:
    """Read a settings file.

    Raises:
        SettingsError: the file is missing, is not YAML, repeats a key, or has unknown or wrong keys; each is named.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SettingsError(f"settings file {path} does not exist; `llm4msr init` writes one") from error
    except IsADirectoryError as error:
        raise SettingsError(f"settings file {path} is a folder; name the file in it") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path} cannot be read: {error}") from error
    body = parse(text, f"settings file {path}")
    _check_variables()
    try:
        settings = Settings(**body)
    except ValidationError as error:
        lines = [f"  {line}" for e in error.errors() for line in [_fault(e)]]
        raise SettingsError(f"settings file {path} (or its {_PREFIX} variables):\n" + "\n".join(lines)) from None
    except UnreadableVariable as error:
        raise SettingsError(f"{_PREFIX} variables: {error} ({error.__cause__})") from error
    base = path.resolve().parent
    absolute = settings.model_copy(
        update={
            "root": (base / settings.root).resolve(),
            "data": settings.data.model_copy(update={"path": (base / settings.data.path).resolve()}),
            "serving": settings.serving.model_copy(
                update=_beside(base, settings.serving, "ssl_certfile", "ssl_keyfile")
            ),
        }
    )
    absolute._file = path.resolve()
    if "?" in str(absolute.root) and absolute.tracking.url is None:
        raise SettingsError(
            f"root is {absolute.root}: MLflow cannot keep its database in a folder with a `?` in its name; choose another "
            "folder, or name an MLflow server in tracking.url"
        )
    return absolute


def parse(text: str, where: str) -> dict[str, Any]:
    """The keys and values of a settings file; one without any is empty.

    Args:
        text: YAML.
        where: what the file is called in messages.

    Raises:
        SettingsError: it is not YAML, not a mapping, or a key stands there twice or is no text.
    """
    try:
        body = yaml.load(text, Loader=_Strict)
    except yaml.YAMLError as error:
        raise SettingsError(f"{where}{_place(error)}: {_problem(error, text)}") from error
    if body is None:
        return {}
    if not isinstance(body, dict):
        kind = "a list" if isinstance(body, list) else "one value"
        raise SettingsError(f"{where} must hold keys and values (`project: my_ranker`), not {kind}")
    return body


class _Strict(yaml.SafeLoader):
    """YAML's safe loader, which elsewhere lets the last of two equal keys win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name, line = self.construct_object(key, deep=True), key.start_mark.line + 1
            if not isinstance(name, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key is one word", key.start_mark)
            if name in seen:
                said = f"{key.value!r} stands here twice, first in line {seen[name]}; keep one of them"
                raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
            if not isinstance(name, str):
                said = f"the key `{key.value}` is {name!r} to YAML; put it in quotes"
                raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
            seen[name] = line
        return super().construct_mapping(node, deep)


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark is not None else ""


def _problem(error: yaml.YAMLError, text: str) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    lines = text.splitlines()
    line = lines[mark.line] if mark is not None and mark.line < len(lines) else ""
    if "\t" in re.match(r"\s*", line).group():  # type: ignore[union-attr]
        return "a tab; YAML is indented with blanks only"
    if problem is None:
        return f"this is not YAML ({error})"
    if isinstance(error, yaml.constructor.ConstructorError):
        return str(problem)
    hint = ""
    if "mapping values are not allowed" in problem:
        hint = "; a text with `: ` in it needs quotes, and keys of one section the same indentation"
    return f"this is not YAML ({problem}){hint}"


def _fault(error: Any) -> str:
    """One of pydantic's findings: the setting, what is wrong, what was given, and what may have been meant."""
    names = [str(part) for part in error["loc"]]
    model, name = _owner(names)
    dotted = ".".join(names)
    variable = _PREFIX + "__".join(names).upper()
    place = f"{dotted} (from {variable})" if variable in map(str.upper, os.environ) else dotted
    if error["type"] == "extra_forbidden" and model is not None:
        return f"{place}: there is no such setting{_meant(names, model, name)}"
    if error["type"] == "model_type":
        return f"{place}: this section holds keys and values, not {_given(error)}"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{place}: {message}"
    if error["type"] == "string_type" and isinstance(error["input"], bool | int | float):
        message = "must be a text: put it in quotes"
    elif error["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", str(error["ctx"]["expected"]))
        message = f"must be one of {', '.join(choices)}{did_you_mean(error['input'], choices)}"
    elif error["type"] == "string_pattern_mismatch":
        message = "must begin with a letter and hold lower-case letters, digits and _ only"
    elif error["type"].startswith("time_delta"):
        message = "must be a length of time such as PT24H, P7D or P1DT12H"
    return f"{place}: {message[0].lower() + message[1:]}; it is {_given(error)}"


def _given(error: Any) -> str:
    """What was given, short; never what may be a secret."""
    model, name = _owner([str(part) for part in error["loc"]])
    if _is_secret(model, name):
        return "a secret"
    text = repr(error["input"])
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _is_secret(model: type[BaseModel] | None, name: str) -> bool:
    field = _fields(model).get(name) if model is not None else None
    return field is not None and SecretStr in (field.annotation, *typing.get_args(field.annotation))


def _owner(names: list[str]) -> tuple[type[BaseModel] | None, str]:
    """The section that the last known part of a dotted name belongs to, and that part."""
    model: type[BaseModel] = Settings
    for name in names[:-1]:
        inner = section_of(model, name)
        if inner is None:
            return model, name
        model = inner
    return model, names[-1] if names else ""


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """A section's fields by the names that files use."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def section_of(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The section below a field, None where it is no section."""
    field = _fields(model).get(name)
    if field is None:
        return None
    kinds = (field.annotation, *typing.get_args(field.annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def dotted_names(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[str]:
    """Every setting there is, by its full name."""
    for name in _fields(model):
        yield prefix + name
        if (inner := section_of(model, name)) is not None:
            yield from dotted_names(inner, f"{prefix}{name}.")


def _meant(names: list[str], model: type[BaseModel], name: str) -> str:
    """What an unknown key may have meant: one of its section, or one of that name elsewhere."""
    head = ".".join([*names[:-1], ""])
    if hint := did_you_mean(name, _fields(model)):
        return hint.replace("'", f"'{head}", 1)
    elsewhere = [known for known in dotted_names() if known.rpartition(".")[2] == name.lower()]
    if elsewhere:
        return f"; did you mean {' or '.join(repr(known) for known in elsewhere)}?"
    return f"; there are: {', '.join(_fields(model))}"


def _beside(base: Path, section: BaseModel, *names: str) -> dict[str, Path]:
    """Paths of a section that are set, relative to the settings file's folder."""
    return {name: (base / path).resolve() for name in names if (path := getattr(section, name)) is not None}


def _check_variables() -> None:
    """Refuse what would be ignored in silence: `LLM4MSR_TRIAN__SEED`, `LLM4MSR_TRAIN_SEED`, `LLM4MSR_PROJEKT`."""
    sections = {name: section_of(Settings, name) for name in Settings.model_fields}
    for variable in os.environ:
        name = variable.upper()
        if not name.startswith(_PREFIX):
            continue
        head, nested, rest = name.removeprefix(_PREFIX).lower().partition("__")
        if nested and rest and head not in sections:
            known = ", ".join(sorted(sections))
            raise SettingsError(
                f"{variable}: there is no section {head!r}{did_you_mean(head, sections)}; there are: {known}"
            )
        if nested or head in sections:
            continue
        single = {f"{s}_{f}": f"{s}__{f}" for s, m in sections.items() if m is not None for f in m.model_fields}
        if head in single:
            raise SettingsError(
                f"{variable} is no setting: write {_PREFIX}{single[head].upper()}, with two underscores"
            )
        top = [s for s, m in sections.items() if m is None]
        if head not in _OTHERS and (hint := did_you_mean(head, top, least=0.75)):
            raise SettingsError(f"{variable}: there is no such setting{hint}")


# Variables of the product that are no settings.
_OTHERS = {"settings", "command", "schedule", "catchup", "start", "end", "log_format", "seed_bundle", "announce"}
