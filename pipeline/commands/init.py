"""`llm4msr init`: a commented settings file for your own data, or one with every field there is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from core import Settings
from core.errors import SettingsError

TEMPLATE = """\
# Settings of one project. Paths are relative to this file. Unknown keys are refused. Every field: llm4msr init --all
# Any field can be overridden by the environment: LLM4MSR_TRAIN__EPOCHS=5, LLM4MSR_ONLINE__STORE=redis ...
# Secrets come from the environment only: LLM4MSR_ONLINE__PASSWORD,
# LLM4MSR_KNOWLEDGE__API_KEY, PGPASSWORD (PostgreSQL).
project: my_ranker
root: .llm4msr                  # artifacts, feature registry, online store and tracking live here

clock:
  mode: wall                    # `replay` with `at: log_end` treats a historical log as if it ended now

data:
  source: table                 # table (your own parquet or CSV) | movielens | kuaisar | amazon
  path: data                    # folder of the files below
  files:                        # parquet or CSV: a file, a folder, or a pattern such as clicks/*.csv.gz
    interactions: interactions.parquet
    users: users.parquet        # optional
    items: items.parquet        # optional, but titles are what the reasoner reads
  catalogue: snapshot           # users and items: what a new file no longer has is withdrawn; delta: files hold changes
  columns:                      # canonical name: your column
    user_id: user_id
    item_id: item_id
    event_timestamp: timestamp
    title: title
  ids: auto                     # auto | string | integer; string where ids may become words, e.g. guest-3
  # nulls: [NULL, nan, None]    # words that stand for nothing, instead of the usual ones (docs/reading-data.md)
  timestamp_unit: s             # s | ms | us | ns for numbers; iso for texts such as 2024-01-31T18:30:00Z
  timezone: UTC                 # of times that name no zone, e.g. Europe/Berlin
  label: {column: clicked, op: ">", value: 0}   # or words: {column: event, in: [cart, purchase]}
  # negatives: {per_positive: 4} # a log of positives only: draw negatives; label: {op: all} where no column says so
  # grade: share_watched        # a column that says how much, for train.grade_levels, e.g. [0.1, 0.5, 0.9]
  scenario: {rule: column, column: surface}
  scenarios:                    # one sentence each: the reasoner and /explain read them
    feed: {title: Home feed, description: Endless feed of recommendations on the home screen.}
    search: {title: Search, description: Results of a typed query.}
    detail: {title: Detail page, description: Related items below the item that is open.}
  user_categorical: []          # columns of `users` and `items` that the model reads
  user_dense: []
  item_categorical: []
  item_dense: []
  item_text: [title]            # item columns that make its text

split:
  kind: time                    # time (global cut) | per_user_tail (each user's newest rows)
  warmup: 0.1                   # first share of the log: feeds statistics and compressors only
  validation: 0.1
  test: 0.1

features:
  lag:                          # watermark -> readable online. Zero only if you run the push path.
    user_stats: PT24H           # a nightly refresh: values are up to a day old when they are read
    item_stats: PT24H
    user_history: PT24H
  ttl: {}                       # e.g. user_stats: P7D -> older values are reported as stale

knowledge:
  reasoner: minilm              # minilm (packaged, offline) | transformers (path or name) | openai (a compatible server)
  user_vectors: [pooled]        # add `prompt` once a causal language model is set
  lag: {pooled: PT24H}          # watermark -> readable online. Zero only if you run the push path

model:
  backbone: shared_bottom       # `llm4msr models list` prints all
  user_level: gate              # none | gate | low_rank | full
  scenario_level: gate

train: {threads: 1}

online:
  store: sqlite                 # sqlite (this machine) | redis
  # url: localhost:6379,db=0

registry:
  kind: file                    # file | sql (PostgreSQL)
  # url: postgresql+psycopg://user@host:5432/feast

serving: {host: 127.0.0.1, port: 3000}
"""


def write_settings(path: Path, force: bool, every: bool = False) -> str:
    """Write the template and say what to do next.

    Args:
        path: the file to write; folders that are missing are made.
        force: overwrite it.
        every: write every field with its default instead of the template.

    Raises:
        SettingsError: the file exists and `force` is not given, or cannot be written.
    """
    if path.exists() and not force:
        raise SettingsError(f"{path} exists already; name another file, or overwrite it with --force")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(all_fields() if every else TEMPLATE, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from error
    return (
        f"wrote {path}. Next: edit `data`, then\n"
        f"  llm4msr doctor --settings {path}\n  llm4msr run --settings {path}\n  llm4msr serve --settings {path}"
    )


def all_fields() -> str:
    """Every field with its default and what it means, as YAML; secrets are named in comments only."""
    head = "# Every field and its default. A file needs only what differs; `llm4msr init` writes a short one.\n"
    return head + "\n".join(_lines(Settings(), "")) + "\n"


def _lines(section: BaseModel, indent: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        note = f"  # {field.description}" if field.description else ""
        if isinstance(value, BaseModel):
            inner = list(_lines(value, indent + "  "))
            nothing = " {}" if all(line.lstrip().startswith("#") for line in inner) else ""
            yield f"{indent}{name}:{nothing}{note}"
            yield from inner
        elif SecretStr in getattr(field.annotation, "__args__", ()):
            yield f"{indent}# {name}: from the environment only"
        else:
            plain: Any = section.model_dump(mode="json", include={name})[name]
            yield f"{indent}{field.alias or name}: {json.dumps(plain, ensure_ascii=False)}{note}"
