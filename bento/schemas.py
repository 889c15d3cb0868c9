"""What the service's answers hold."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema


class RankedItem(BaseModel):
    """One item of the answer, best first."""

    item_id: int | str
    title: str | None
    score: float = Field(description="probability of a positive label, 0 to 1")


class Versions(BaseModel):
    """What produced an answer."""

    model: str
    version: int
    bundle_digest: str
    catalogue_digest: str
    knowledge: dict[str, str] = Field(description="kind of vector -> version")


Id = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string"}]})]
"""Read by `core.ids`, not by pydantic, which would make 1 of true."""
Candidates = Annotated[list[Id] | None, Field(max_length=100_000, description="items to rank; none: the scenario's")]
Count = Annotated[int | None, Field(strict=True, ge=1, le=10_000, description="how many come back")]
Context = Annotated[dict[str, Any] | None, Field(max_length=100, description="accepted; no present model reads it")]
Excluded = Annotated[list[Id] | None, Field(max_length=100_000, description="items that are not ranked")]
ExcludeSeen = Annotated[bool, Field(strict=True, description="leave out the items of the user's history")]
Only = Annotated[
    dict[str, Annotated[list[str | int | float], Field(max_length=1_000)]] | None,
    Field(max_length=20, description="column of the catalogue to the values that stay"),
]


class RankRequest(BaseModel):
    """One ranking, as `/rank` takes it."""

    model_config = ConfigDict(extra="forbid")

    user_id: Id
    scenario: str
    candidates: Candidates = None
    k: Count = None
    context: Context = None
    exclude: Excluded = None
    exclude_seen: ExcludeSeen = False
    only: Only = None


class Ranked(BaseModel):
    """One ranking."""

    user_id: int | str
    scenario: str
    items: list[RankedItem]
    candidates: int = Field(description="how many items were scored")
    unknown_candidates: list[int | str] = Field(description="asked for, but not in the catalogue")
    degraded: list[str] = Field(description="what was missing, stale or unreachable; empty when all was read")


class RankAnswer(Ranked):
    """Answer of `/rank`."""

    versions: Versions


class BatchAnswer(BaseModel):
    """Answer of `/rank/batch`."""

    answers: list[Ranked] = Field(description="one for each request, in their order")
    versions: Versions


class NearItem(BaseModel):
    """A history item and how near its text is to the candidate's."""

    item_id: int | str
    title: str | None
    similarity: float = Field(description="cosine of the text vectors, -1 to 1")


class Part(BaseModel):
    """A summand of the logit."""

    part: str = Field(
        description="start: an unknown user, an item of average numbers and without text; then what is added by user, "
        "user_numbers, history, user_knowledge, scenario_knowledge, item, item_numbers, item_text"
    )
    logit: float


class FeatureShare(BaseModel):
    """One input of the model, and what it adds to the logit."""

    part: str = Field(description="the part that it belongs to")
    feature: str = Field(description="a column, or a kind of vector")
    value: int | float | str | None = Field(description="as the model was given it; null: unknown, or a vector")
    logit: float


class HistoryShare(BaseModel):
    """An item of the user's history, and what it adds to the logit."""

    item_id: int | str
    title: str | None
    logit: float


class ScenarioScore(BaseModel):
    """The same item for the same user in another scenario."""

    scenario: str
    title: str
    score: float
    shown: bool = Field(description="whether the scenario can show the item")


class ExplainAnswer(BaseModel):
    """Answer of `/explain`."""

    user_id: int | str
    scenario: str
    item_id: int | str
    title: str | None
    score: float
    logit: float = Field(description="the score's; all parts add up to it, and so do backbone_logit and scenario_logit")
    backbone_logit: float
    scenario_logit: float
    parts: list[Part] = Field(description="what the logit is made of, by integrated gradients")
    features: list[FeatureShare] = Field(description="the inputs that add or take most, strongest first")
    history: list[HistoryShare] = Field(description="the history items that add or take most, strongest first")
    neutral_score: float = Field(description="the score if nothing were known of user and scenario")
    place: int | None = Field(description="among all items of the scenario; null: it is not one, or there are too many")
    neutral_place: int | None = Field(description="the place if nothing were known of user and scenario")
    knowledge: str = Field(description="what knowledge changed, in words")
    scenarios: list[ScenarioScore] = Field(description="the same item in every scenario; of more than 100 the first")
    user_text: str | None
    user_text_source: str | None = Field(description="generated by the reasoner, or a deterministic summary")
    scenario_text: str | None
    nearest_history: list[NearItem] = Field(description="of the whole history, and only where it is near")
    near_from: float | None = Field(
        description="the similarity that counts as near: of as many unrelated items, the nearest passes it one time in twenty; "
        "null: there is no text to compare"
    )
    degraded: list[str]
    versions: Versions


class RejectedRow(BaseModel):
    """An interaction that was not taken."""

    row: int = Field(description="its place in the request, from 0")
    field: str
    reason: str


class PushAnswer(BaseModel):
    """Answer of `/push`."""

    pushed: int
    users: int = Field(description="users whose online state was written")
    rejected: list[RejectedRow]
    unknown_items: list[int | str] = Field(
        description="items that are not in the catalogue, so that they are not ranked"
    )
    forgotten: int = Field(0, description="rows that were dropped: their users are forgotten")


class ScenarioInfo(BaseModel):
    """One scenario the service ranks for."""

    scenario: str
    title: str
    description: str
    items: int = Field(description="items of the catalogue that it can show")
    has_knowledge: bool
