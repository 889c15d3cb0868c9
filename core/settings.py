"""Settings: one YAML file, every field overridable by `LLM4MSR_SECTION__FIELD`, unknown keys refused.

Secrets (passwords, tokens) come from the environment only, e.g. `LLM4MSR_ONLINE__PASSWORD`.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    ByteSize,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from core.addresses import RedisAddress, shown
from core.clock import Clock, replay, wall
from core.contracts.kinds import CURRENT, DEFAULT, KINDS, NIGHTLY, UserKindName
from core.contracts.statistics import COUNTED, statistic_columns
from core.errors import SettingsError
from core.limits import ValidationSettings
from core.negatives import NegativeSampling
from core.resources import DEFAULT_MEMORY
from core.section import Section

# What exports write for nothing. `NA` is not among them (it is Namibia, too), nor is `none` (a size, a colour).
NULLS = (
    *("NULL", "Null", "null", "(null)", "None", "NaN", "nan", "NAN", "-nan", "NaT", "<NA>", "N/A", "n/a", "#N/A"),
    *("\\N", "nil", "<nil>", "undefined"),
)


class ClockSettings(Section):
    mode: Literal["wall", "replay"] = "wall"
    at: dt.datetime | Literal["log_end", "window_end"] = Field(
        "log_end",
        description="replay only: a time; the newest row of the log; or the end of the window that runs, which replays a "
        "schedule (of a window without an end: the newest row)",
    )


class LabelRule(Section):
    """label = 1 where `column` compares to `value` by `op`, else 0; `is` takes the column itself, which must be 0 or 1;
    `all` reads no column: each row is a positive; with `in` label = 1 where the column is one of these words, else 0.
    """

    model_config = ConfigDict(populate_by_name=True)

    column: str = "rating"
    op: Literal[">", ">=", "==", "is", "all"] = ">"
    value: float = 3.0
    words: list[str | bool | int | float] = Field(
        default_factory=list,
        alias="in",
        description="words (or numbers) that are positive, e.g. [cart, purchase]; all others are 0. Instead of op and value",
    )

    @model_validator(mode="after")
    def _one_way(self) -> LabelRule:
        if self.words and {"op", "value"} & self.model_fields_set:
            raise ValueError("give either `in` or `op` and `value`")
        return self


class ScenarioRule(Section):
    """Which scenario a row belongs to."""

    rule: Literal["first_genre", "age", "column", "source"] = "first_genre"
    column: str | None = Field(None, description="rule `column`: the source column that names the scenario")
    groups: dict[str, list[str]] = Field(
        default_factory=dict, description="scenario: the values that make it; empty: every value is its own scenario"
    )
    other: str | None = Field(None, description="scenario of all values not in a group; none: such rows are rejected")


class ScenarioText(Section):
    title: str
    description: str


CatalogueKind = Literal["snapshot", "delta"]


class CsvDialect(Section):
    """How delimited files are written; what is `auto` is found out from the whole file."""

    delimiter: str = Field("auto", description="between fields: auto, tab, or one character such as ; or |")
    quote: str = Field("auto", description="encloses a field: auto, none (quotes are text), or one character")
    escape: str = Field("auto", description="takes the next character's meaning away: auto, none, or one character")

    def or_else(self, known: CsvDialect) -> CsvDialect:
        """What was set here, and where nothing was set what is known."""
        given = {name: getattr(self, name) for name in CsvDialect.model_fields if getattr(self, name) != "auto"}
        return known.model_copy(update=given)

    @property
    def delimiter_character(self) -> str | None:
        """The delimiter that was set; None: find it out."""
        return {"auto": None, "tab": "\t"}.get(self.delimiter, self.delimiter)

    @property
    def quote_character(self) -> str | None:
        """The quote that was set; None: there is none, or it is to be found out."""
        return None if self.quote in ("auto", "none") else self.quote

    @property
    def escape_character(self) -> str | None:
        """The escape that was set; None: there is none, or it is to be found out."""
        return None if self.escape in ("auto", "none", self.quote) else self.escape

    @field_validator("delimiter", "quote", "escape")
    @classmethod
    def _one_character(cls, value: str, info: ValidationInfo) -> str:
        words = ("auto", "tab") if info.field_name == "delimiter" else ("auto", "none")
        if value in words or (len(value) == 1 and value.isascii() and not value.isalnum() and value not in "\r\n\0"):
            return value
        raise ValueError(f"must be {', '.join(words)} or one character that is no letter, digit or line end")

    @model_validator(mode="after")
    def _distinct(self) -> CsvDialect:
        given = [c for c in (self.delimiter_character, self.quote_character, self.escape_character) if c is not None]
        if len(set(given)) < len(given):
            raise ValueError("delimiter, quote and escape must be three different characters")
        return self


class CsvSettings(CsvDialect):
    """The dialect of all CSV files, or of one table's where it is named."""

    interactions: CsvDialect | None = None
    users: CsvDialect | None = None
    items: CsvDialect | None = None

    def of(self, table: str) -> CsvDialect:
        """The dialect of a table's files."""
        return getattr(self, table, None) or self


OWN_COLUMNS = frozenset(
    (
        *("row_id", "user_id", "item_id", "scenario", "scenarios", "event_timestamp", "created_timestamp", "watermark"),
        *("label", "weight", "grade", "split", "sampled", "published", "history", "history_end", "file_row_number"),
        *("rule", "run", "row_number"),
        *(column for entity in COUNTED for column in statistic_columns(entity)),
    )
)
"""Names, in lower case, that tables of declared columns have for their own."""
_LONGEST_NAME = 80  # bytes, so that a file can have it as its name whatever has to be escaped
_OWN_ENDS = ("_row", "_watermark", "_published")


class DataSettings(Section):
    source: Literal["movielens", "kuaisar", "amazon", "table"] = "movielens"
    path: Path = Path("data/ml-latest-small")
    files: dict[str, str] = Field(
        default_factory=dict, description="source `table`: interactions, users, items -> file, folder or pattern"
    )
    columns: dict[str, str] = Field(default_factory=dict, description="source `table`: canonical name -> source column")
    csv: CsvSettings = CsvSettings()
    ids: Literal["auto", "string", "integer"] | dict[Literal["user", "item"], Literal["auto", "string", "integer"]] = (
        Field(
            "auto",
            description="what ids are: integers where every file has whole numbers, else text (auto), or always the one or the "
            "other; {user: string, item: auto} says it for each",
        )
    )
    nulls: list[str] = Field(
        default_factory=lambda: list(NULLS),
        description="words that stand for nothing, like an empty cell, in every column; a list of yours takes the place "
        "of this one, e.g. [NA] or []",
    )
    timestamp_unit: Literal["s", "ms", "us", "ns", "iso"] = Field(
        "s", description="of times that are numbers; iso: they are texts such as 2024-01-31T18:30:00Z"
    )
    timezone: str = Field(
        "UTC",
        description="of times that name no zone of their own, e.g. Europe/Berlin; of an hour that clocks run twice, the first",
    )
    encoding: str | None = Field(
        None, description="text encoding; none: the source's own (latin-1 for ML-1M, else UTF-8)"
    )
    label: LabelRule = LabelRule()
    negatives: NegativeSampling | None = Field(
        None,
        description="for a log of positives only: draw negatives for training and evaluation, e.g. {per_positive: 4, "
        "strategy: popularity}; none: the log says what was shown and left",
    )
    grade: str | None = Field(
        None,
        description="a column of the log that says more than the label (stars, share watched), higher is better; only "
        "training reads it, see train.grade_levels",
    )
    scenario: ScenarioRule = ScenarioRule()
    scenarios: dict[str, ScenarioText] = Field(default_factory=dict, description="title and one sentence per scenario")
    user_categorical: list[str] = Field(default_factory=list)
    user_dense: list[str] = Field(default_factory=list)
    item_categorical: list[str] = Field(default_factory=list)
    item_dense: list[str] = Field(default_factory=list)
    item_text: list[str] = Field(default_factory=lambda: ["title"], description="item columns that make its text")
    catalogue: CatalogueKind | dict[Literal["users", "items"], CatalogueKind] = Field(
        "snapshot",
        description="the files of users and items. snapshot: each holds all there is, and what it no longer has is "
        "withdrawn; delta: each holds what is new or changed. Also per table, e.g. {items: delta}",
    )
    text_length: int = Field(
        200, ge=1, description="characters of each item_text column that are read; the rest is cut, and the log says so"
    )
    batch_rows: int = Field(262_144, ge=1)

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"{value!r} is no time zone; write a name such as Europe/Berlin or UTC") from error
        return value

    @model_validator(mode="after")
    def _columns_apart(self) -> DataSettings:
        """Declared columns meet in one table, in which a database does not tell `uid` from `UID`."""
        seen: dict[str, tuple[str, str]] = {}
        for field in ("user_categorical", "user_dense", "item_categorical", "item_dense", "item_text"):
            for name in getattr(self, field):
                mend = f"give the column another name by data.columns, e.g. {{other_name: {name!r}}}, and declare that"
                if not name.strip() or any(ord(c) < 32 for c in name):
                    raise ValueError(f"{field} names {name!r}, which is no printable name; {mend}")
                if len(name.encode("utf-8", "replace")) > _LONGEST_NAME:
                    raise ValueError(f"{field} names {name!r}, which has more than {_LONGEST_NAME} bytes; {mend}")
                own = name.casefold() in OWN_COLUMNS or name.casefold().endswith(_OWN_ENDS)
                if own and field != "item_text":
                    raise ValueError(f"{field} names {name!r}, which is the name of a column of our own; {mend}")
                other, spelled = seen.setdefault(name.casefold(), (field, name))
                same_table = other.split("_")[0] == field.split("_")[0]
                if spelled != name or not same_table:
                    raise ValueError(
                        f"{field} names {name!r} and {other} names {spelled!r}: they cannot be told apart; {mend}"
                    )
        return self

    def ids_of(self, entity: Literal["user", "item"]) -> str:
        """What `ids` says of users or of items."""
        return self.ids if isinstance(self.ids, str) else self.ids.get(entity, "auto")

    def catalogue_kind(self, table: Literal["users", "items"]) -> CatalogueKind:
        """`snapshot` or `delta`, of one table."""
        return self.catalogue.get(table, "snapshot") if isinstance(self.catalogue, dict) else self.catalogue


# The push path keeps a user's counters and history current; item statistics wait for the nightly refresh.
FEATURE_LAG = {"user_stats": CURRENT, "user_history": CURRENT, "item_stats": NIGHTLY}
KNOWLEDGE_LAG = {kind.name: kind.lag for kind in KINDS}


def _with_defaults(given: dict[str, dt.timedelta], defaults: dict[str, dt.timedelta]) -> dict[str, dt.timedelta]:
    if unknown := sorted(set(given) - set(defaults)):
        raise ValueError(f"unknown kind {unknown[0]!r}; kinds are {', '.join(defaults)}")
    if negative := [kind for kind, lag in given.items() if lag < CURRENT]:
        raise ValueError(f"the lag of {negative[0]} is negative: it would be read before it was built")
    return {**defaults, **given}


class FeatureSettings(Section):
    prior_rate: float = Field(0.5, ge=0, le=1, description="positive rate of something never seen")
    prior_weight: float = Field(10.0, ge=0, description="how many rows the prior counts for")
    history_length: int = Field(20, ge=1, description="newest positives in the history bag")
    lag: dict[str, dt.timedelta] = Field(
        default_factory=dict,
        description="time from watermark to readable online, per kind; zero only for what the push path keeps current",
    )
    ttl: dict[str, dt.timedelta] = Field(
        default_factory=dict, description="view -> age after which the online reader calls a value stale"
    )

    @field_validator("lag")
    @classmethod
    def _complete_lag(cls, value: dict[str, dt.timedelta]) -> dict[str, dt.timedelta]:
        return _with_defaults(value, FEATURE_LAG)


class SplitSettings(Section):
    kind: Literal["per_user_tail", "time"] = "per_user_tail"
    warmup: float = Field(0.1, ge=0, lt=1, description="first share of the log: feeds statistics and compressors only")
    validation: float = Field(0.1, gt=0, lt=1, description="share of the rows: stops training, chooses nothing else")
    test: float = Field(0.2, gt=0, lt=1, description="share of the rows: measured once, at the end")
    horizon: dt.timedelta | None = Field(None, description="train on this much before the window's end; none: on all")
    protocol: Literal["causal"] = Field("causal", description="a row reads only what was known before it")


class GenerateSettings(Section):
    max_new_tokens: int = Field(200, ge=1, description="longest answer in tokens; greedy, so the same every time")
    chat: bool = Field(True, description="put the prompt into the model's chat template, where it has one")
    model: str | None = Field(None, description="reasoner `openai`: what answers; none: knowledge.model, which embeds")
    base_url: str | None = Field(None, description="reasoner `openai`: where that is served; none: knowledge.base_url")


class RaySettings(Section):
    address: str | None = Field(None, description="of a Ray cluster, e.g. ray-head:6379; none: one on this machine")
    workers: int = Field(2, ge=1, description="actors; each loads the reasoner")
    num_cpus: float = Field(1.0, ge=0, description="processors per actor")
    num_gpus: float = Field(0.0, ge=0, description="GPUs per actor")


class KnowledgeSettings(Section):
    reasoner: Literal["minilm", "transformers", "openai"] = "minilm"
    model: str | None = Field(None, description="reasoner `transformers` or `openai`: path or name of the model")
    revision: str | None = None
    device: str = Field("cpu", description="of torch, e.g. cuda; auto: spread over what there is")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    layer: int = Field(-1, description="hidden layer to pool; -1 is the last")
    pooling: Literal["mean", "last"] = "mean"
    max_tokens: int = Field(256, ge=8, description="longest prompt in tokens")
    batch_tokens: int = Field(8192, ge=64, description="tokens per forward pass")
    language: Literal["en", "zh"] = Field("en", description="of the prompt templates")
    base_url: str | None = None
    api_key: SecretStr | None = None
    concurrency: int = Field(8, ge=1, description="reasoner `openai`: requests at a time")
    retries: int = Field(4, ge=0, description="reasoner `openai`: further tries of a request, with growing waits")
    timeout: dt.timedelta = Field(dt.timedelta(minutes=2), description="reasoner `openai`: longest wait for an answer")
    requests_per_minute: float | None = Field(None, gt=0, description="reasoner `openai`: rate limit; none: no limit")
    tokens_per_minute: float | None = Field(None, gt=0, description="reasoner `openai`: rate limit; none: no limit")
    token_budget: int | None = Field(
        None, ge=1, description="reasoner `openai`: a run stops cleanly before it would use more tokens; none: no limit"
    )
    user_vectors: list[UserKindName] = Field(default_factory=lambda: [DEFAULT.name])
    thresholds: list[int] = Field(default_factory=lambda: [5, 10, 20, 40, 80, 160, 320, 640, 1280])
    max_age: dt.timedelta | None = Field(None, description="a snapshot older than this is due again; none: never")
    every: dt.timedelta | None = Field(
        None, description="also due with the first row of each such period of the calendar, e.g. P7D; none: never"
    )
    pooled_half_life: dt.timedelta | None = Field(
        None, description="a row counts half as much in `pooled` with each such period of the calendar; none: all alike"
    )
    lag: dict[str, dt.timedelta] = Field(
        default_factory=dict, description="time from watermark to readable online, per kind of vector"
    )
    user_dim: int = Field(128, ge=4, description="width of a user's compressed vector")
    item_dim: int = Field(64, ge=4, description="width of an item's compressed vector")
    prompt_users: int | None = Field(None, description="most users that get a `prompt` vector; none: all that are due")
    prompt_snapshots: Literal["due", "newest"] = Field(
        "due", description="prompt vectors at every snapshot that was due, or only at each user's newest"
    )
    prompt_history: int = Field(20, ge=1, description="titles per scenario in a user prompt")
    generate: GenerateSettings | None = Field(
        None, description="let the reasoner answer user prompts and pool the answer's states; none: pool the prompt's"
    )
    shard_rows: int = Field(1024, ge=1, description="texts per cached shard; a kill loses one at the most")
    engine: Literal["local", "ray"] = Field("local", description="who lets the reasoner read: this process or Ray")
    ray: RaySettings = RaySettings()

    @field_validator("lag")
    @classmethod
    def _complete_lag(cls, value: dict[str, dt.timedelta]) -> dict[str, dt.timedelta]:
        return _with_defaults(value, KNOWLEDGE_LAG)

    @field_validator("pooled_half_life")
    @classmethod
    def _lasting(cls, value: dt.timedelta | None) -> dt.timedelta | None:
        if value is not None and value <= dt.timedelta(0):
            raise ValueError("must be longer than nothing")
        return value


class ModelSettings(Section):
    name: str = "ranker"
    backbone: Literal[
        "shared_bottom",
        "omoe",
        "mmoe",
        "ple",
        "aitm",
        "star",
        "sar_net",
        "m2m",
        "adasparse",
        "adaptdhm",
        "epnet",
        "ppnet",
        "hamur",
        "m3oe",
        "deepfm",
    ] = "shared_bottom"
    backbone_options: dict[str, Any] = Field(
        default_factory=dict, description="further settings of the backbone; `llm4msr models list` prints them"
    )
    embedding_dim: int = Field(16, ge=4, multiple_of=4, description="width of every embedding")
    hidden: list[int] | None = Field(
        None, description="widths of the layers below the towers; none: the backbone's own"
    )
    tower: list[int] | None = Field(
        None, description="widths of each scenario's tower, where the backbone has towers; none: the backbone's own"
    )
    dropout: float = Field(0.1, ge=0, lt=1)
    embedding_dropout: float = Field(0.3, ge=0, lt=1)
    user_level: Literal["none", "gate", "low_rank", "full"] = "gate"
    scenario_level: Literal["none", "gate", "low_rank", "full"] = "gate"
    bottleneck: int = Field(32, ge=1)
    rank: int = Field(16, ge=1, description="low_rank: size of the generated core")
    maps: int = Field(4, ge=1, description="full: number of shared basis maps; the cost of a step grows with it")
    meta_depth: int = Field(1, ge=1, description="generated layers of each level, one after another")
    meta_width: int | None = Field(
        None, ge=1, description="width of the scenario's meta tower; none: the first of `tower`, or 32"
    )
    knowledge_dropout: float = Field(0.1, ge=0, lt=1, description="share of users trained as if unknown")
    user_vectors: list[UserKindName] = Field(
        default_factory=lambda: [DEFAULT.name],
        description=f"which of knowledge.user_vectors the model reads; unless set, {DEFAULT.name} where there is one, else what "
        "there is",
    )
    knowledge_features: bool = Field(True, description="user vectors also enter as plain features")
    second_order: Literal["none", "fm", "dcn_v2"] = Field(
        "none",
        description="beside the backbone. fm: pairwise products of embeddings, item text and user vectors; dcn_v2: a cross "
        "network over the backbone's input",
    )
    cross_layers: int = Field(2, ge=1, description="dcn_v2: number of its layers")


class TrainSettings(Section):
    batch_size: int = Field(4096, ge=1, description="rows, of all processes together")
    min_steps: int = Field(
        20, ge=1, description="of an epoch; where there are too few rows for that, batches are smaller than batch_size"
    )
    epochs: int = Field(30, ge=1, description="at most")
    patience: int = Field(
        3,
        ge=1,
        description="stop after so many epochs in which neither validation AUC nor log loss was the best so far",
    )
    learning_rate: float = Field(3e-3, gt=0, description="of Adam, for everything but the embedding tables")
    embedding_learning_rate: float = Field(0.5, gt=0, description="of the tables' row-wise Adagrad")
    embedding_eps: float = Field(
        100.0,
        gt=0,
        description="of the tables' row-wise Adagrad, per seen row: a rarely seen id moves by embedding_learning_rate / "
        "embedding_eps times its rows' gradients, whatever the batch size; smaller values let rare ids jump",
    )
    averaging: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="validated and kept are averages over epochs, of which this share is what was before; 0: the weights themselves, "
        "which saves two copies of them in memory",
    )
    weight_decay: float = Field(1e-6, ge=0, description="of Adam; tables have none")
    schedule: Literal["constant", "linear"] = Field(
        "constant", description="linear: both learning rates fall to 0 over all `epochs`"
    )
    grade_levels: list[float] = Field(
        default_factory=list,
        description="also learn whether data.grade lies above each of these, e.g. [1, 2, 4] of five stars",
    )
    grade_weight: float = Field(0.5, gt=0, description="of each grade level beside the label's 1")
    seed: int = 1
    threads: int = Field(1, ge=1, description="of torch, per process")
    device: str = Field("cpu", description="cpu or cuda")


Placebo = Literal["shuffled_titles", "other_user"]


class ControlsSettings(Section):
    every: int = Field(
        7, ge=0, description="train the placebos at the first run and then at every so many runs; 0: never"
    )
    placebos: list[Placebo] = Field(
        default_factory=lambda: ["shuffled_titles", "other_user"],  # type: ignore[arg-type]
        description="the model with knowledge trained on: titles exchanged between items (what do the texts say?), or each user's "
        "vectors taken from another user of similar activity (what do a user's own vectors say?)",
    )
    without_text: bool = Field(
        True, description="also train the plain backbone without item text, at every run: what the texts bring to it"
    )


class PromotionSettings(Section):
    challenger: Literal["better", "plain", "knowledge"] = Field(
        "better",
        description="which of a run's models may go live; better: knowledge where it is better overall and harms no scenario",
    )
    floor: Literal["counting", "none"] = Field(
        "counting", description="what a first champion must not be worse than: smoothed rates without any model"
    )
    margin: float = Field(
        0.002, ge=0, description="AUC by which a new model may be worse in a scenario, and still be live"
    )
    loss_margin: float = Field(
        0.01, ge=0, description="share by which its log loss may be higher overall and in a scenario, and still be live"
    )
    min_users: int = Field(200, ge=1, description="scenarios with fewer users among the test rows are judged together")
    min_positives: int = Field(500, ge=1, description="or with fewer positives; too few in all: the champion stays")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the verdict's bounds and the report's intervals")
    cold_rows: int = Field(10, ge=0, description="a user with at most this many rows before a row is cold there")
    resamples: int = Field(1000, ge=100)
    max_age: dt.timedelta = Field(
        dt.timedelta(days=30),
        description="an older champion gives way to a model that is not worse; with too little data to tell, to one that is not "
        "shown to be worse",
    )


class OnlineSettings(Section):
    store: Literal["sqlite", "redis"] = "sqlite"
    url: str = Field(
        "localhost:6379,db=0",
        description="redis only: host:port,db=N,username=U,ssl=true, or redis://U@host:port/N, rediss:// (TLS), unix:///path",
    )
    password: SecretStr | None = None
    timeout_ms: int = Field(1000, ge=1, description="longest wait for a read; production settings give 50")
    items: bool = Field(
        False, description="write items' columns and statistics online, too; the service reads them from the catalogue"
    )

    @property
    def address(self) -> RedisAddress:
        """Where Redis is, and how to log in.

        Raises:
            SettingsError: `url` is no address of a Redis.
        """
        return RedisAddress.parse(self.url, self.password.get_secret_value() if self.password else None)

    @model_validator(mode="after")
    def _readable(self) -> OnlineSettings:
        if self.store == "redis":
            _ = self.address
        return self


class RegistrySettings(Section):
    kind: Literal["file", "sql"] = "file"
    url: str | None = Field(None, description="sql only: postgresql+psycopg://user@host:5432/database")


class TokenSettings(Section):
    read: SecretStr | None = Field(
        None,
        min_length=16,
        description="of all routes but /livez and /readyz; none: whoever reaches the port is answered",
    )
    write: SecretStr | None = Field(None, min_length=16, description="of /push; none: that of read")
    admin: SecretStr | None = Field(None, min_length=16, description="of /metrics; none: that of read")

    def of(self, group: Literal["read", "write", "admin"]) -> SecretStr | None:
        """The token of a group of routes; without one of its own, that of `read`."""
        own: SecretStr | None = getattr(self, group)
        return own or self.read


class TracingSettings(Section):
    url: str | None = Field(
        None, pattern=r"^https?://", description="OTLP over HTTP, e.g. http://collector:4318/v1/traces; none: no traces"
    )
    sample: float = Field(
        0.01, ge=0, le=1, description="share of requests that are traced; one that comes with a trace follows it"
    )


class ServingSettings(Section):
    host: str = "127.0.0.1"
    port: int = 3000
    workers: int = Field(1, ge=1, description="processes at one address; each ranks one request at a time")
    admin_port: int = Field(
        0,
        ge=0,
        le=65_535,
        description="port for /metrics, documents and probes alone, which callers then do not reach; 0: none",
    )
    admin_host: str | None = Field(None, description="address of the admin port; none: that of host")
    ssl_certfile: Path | None = Field(
        None, description="certificate, PEM; with it and its key both ports speak TLS alone"
    )
    ssl_keyfile: Path | None = Field(None, description="key of the certificate, PEM, without a password")
    k: int = Field(10, ge=1)
    max_candidates: int | None = Field(
        None,
        ge=1,
        description="most items that one ranking scores; of a larger scenario those with the most positives, and the answer says so; "
        "none: all",
    )
    poll_seconds: float = Field(2.0, gt=0, description="how often processes look for a new bundle or catalogue")
    max_concurrency: int = Field(
        64, ge=1, description="rankings and explanations a process has at hand at once; more are answered 429"
    )
    explain: bool = Field(
        True, description="/explain answers; it tells a user's history and text. If not, texts do not go online either"
    )
    tokens: TokenSettings = TokenSettings()
    docs: bool = Field(True, description="/docs.json, /schema.json and the pages / and /console are there")
    tracing: TracingSettings = TracingSettings()
    access_log: bool = Field(
        False, description="one line of the log for each answer; /livez, /readyz and /metrics are left out"
    )

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> ServingSettings:
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ValueError("ssl_certfile and ssl_keyfile belong together; set both or neither")
        if self.admin_port == self.port:
            raise ValueError("admin_port is a port beside port; set another, or 0 for none")
        return self


class PushSettings(Section):
    http: bool = Field(False, description="the service takes POST /push; whoever reaches its port can then write")
    ingest: bool = Field(True, description="ingest adds what was pushed in the window and the source does not hold")
    batch_rows: int = Field(500, ge=1, le=100_000, description="push --follow writes after so many lines at the latest")
    batch_ms: int = Field(200, ge=0, description="and this long after a line came, at the latest")
    max_request_rows: int = Field(1000, ge=1, description="longer POST /push requests are refused")
    max_concurrency: int = Field(16, ge=1, description="pushes a process has at hand at once; more are answered 429")


class TrackingSettings(Section):
    url: str | None = Field(None, description="MLflow server; none: a SQLite file below root")
    experiment: str = "llm4msr"


class ResourceSettings(Section):
    memory: ByteSize = Field(
        ByteSize(DEFAULT_MEMORY),
        ge=256_000_000,
        description="what a stage may hold at once of tables that grow with the log, e.g. 2GB or 800MiB; more than that is "
        "worked on in parts, or goes to the disk meanwhile. A language model, a model in training and the libraries "
        "themselves come on top",
    )


class Settings(BaseSettings):
    """Everything a run needs. Paths are relative to the folder of the settings file unless absolute."""

    model_config = SettingsConfigDict(
        env_prefix="LLM4MSR_", env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    project: str = Field("llm4msr", pattern=r"^[a-z][a-z0-9_]*$")
    root: Path = Field(Path(".llm4msr"), description="where artifacts, registry, online store and tracking live")
    clock: ClockSettings = ClockSettings()
    data: DataSettings = DataSettings()
    validation: ValidationSettings = ValidationSettings()
    features: FeatureSettings = FeatureSettings()
    split: SplitSettings = SplitSettings()
    knowledge: KnowledgeSettings = KnowledgeSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    controls: ControlsSettings = ControlsSettings()
    promotion: PromotionSettings = PromotionSettings()
    online: OnlineSettings = OnlineSettings()
    registry: RegistrySettings = RegistrySettings()
    serving: ServingSettings = ServingSettings()
    push: PushSettings = PushSettings()
    tracking: TrackingSettings = TrackingSettings()
    resources: ResourceSettings = ResourceSettings()

    _file: Path | None = PrivateAttr(default=None)

    @field_validator("model")
    @classmethod
    def _vectors_are_made(cls, value: ModelSettings, others: ValidationInfo) -> ModelSettings:
        if "knowledge" not in others.data:
            return value
        made = others.data["knowledge"].user_vectors
        if made and DEFAULT.name not in made and "user_vectors" not in value.model_fields_set:
            value = value.model_copy(update={"user_vectors": list(made)})
        absent = [kind for kind in value.user_vectors if kind not in made]
        if value.user_level != "none" and (absent or not value.user_vectors):
            what = f"names {absent[0]}, which is not among knowledge.user_vectors" if absent else "is empty"
            raise ValueError(
                f"user_level {value.user_level} reads users' vectors, but model.user_vectors {what} "
                f"(there: {', '.join(made) or 'none'}); name one that is in both, or set model.user_level: none"
            )
        return value

    @field_validator("train")
    @classmethod
    def _grades_are_read(cls, value: TrainSettings, others: ValidationInfo) -> TrainSettings:
        if value.grade_levels and "data" in others.data and not others.data["data"].grade:
            raise ValueError("grade_levels needs data.grade, the column of the log that holds the grade")
        return value

    @property
    def file(self) -> Path:
        """The file the settings were read from; a child process reads the same.

        Raises:
            SettingsError: they were made in code.
        """
        if self._file is None:
            raise SettingsError("these settings come from no file, but a child process needs one; use load_settings")
        return self._file

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment before file: `init_settings` carries what the YAML file says."""
        return env_settings, init_settings

    def section(self, *names: str) -> dict[str, Any]:
        """JSON-able parts of the settings, for manifests; secrets are masked, also those within addresses.

        `data.path` is left out: what lies there counts (its digest is an input), not where it lies.
        """
        parts = {name: getattr(self, name).model_dump(mode="json") for name in names}
        parts.get("data", {}).pop("path", None)
        return {name: _masked(part) for name, part in parts.items()}


def _masked(part: dict[str, Any]) -> dict[str, Any]:
    """A part whose addresses hold no password."""
    masked = dict(part)
    for name, value in part.items():
        if isinstance(value, dict):
            masked[name] = _masked(value)
        elif isinstance(value, str) and name in ("url", "base_url"):
            masked[name] = shown(value)
    return masked


def make_clock(settings: Settings, end: dt.datetime | None = None) -> Clock:
    """The clock the settings ask for.

    Args:
        settings: whose `clock` section counts.
        end: where `at: log_end` and `at: window_end` stand.

    Raises:
        SettingsError: such an end is asked for and not known yet.
    """
    if settings.clock.mode == "wall":
        return wall()
    if isinstance(settings.clock.at, dt.datetime):
        return replay(settings.clock.at)
    if end is None:
        raise SettingsError(f"clock.at is {settings.clock.at}, but no log was ingested yet; run `llm4msr ingest` first")
    return replay(end)
