"""What a run found: the files that `evaluate`, `controls` and `promote` write, and the report and the end of a run read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from core.contracts.contract import Part, SpecFile

System = Literal["plain", "knowledge"]
Says = Literal["better", "worse", "no difference can be told", "undefined"]


class ResultFile(SpecFile):
    """A result in the folder of an artifact. What was not given is not written."""

    def as_json(self) -> dict[str, Any]:
        """What is written."""
        return self.model_dump(mode="json", exclude_unset=True)


class CalibrationBin(Part):
    """Rows of about equal scores: their mean prediction, and the share that is positive."""

    rows: int
    predicted: float
    actual: float


class Calibration(Part):
    """Predictions over positives, the mean gap of the bins, and the bins."""

    ratio: float | None
    ece: float | None
    bins: tuple[CalibrationBin, ...]


class Measures(Part):
    """Measures of one system on some rows; what is undefined is None."""

    rows: int
    users: int
    positives: int
    auc: float | None
    logloss: float | None
    gauc: float | None
    ndcg_at_10: float | None
    recall_at_10: float | None
    lists: int
    calibration: Calibration


class DrawnNegatives(BaseModel):
    """How negatives were drawn, see `core.negatives`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    per_positive: int
    strategy: str


class SystemMetrics(Part):
    """What `models.evaluate` says of a system: all rows, each scenario, cold users."""

    overall: Measures
    scenarios: Mapping[str, Measures]
    cold: Measures
    negatives: DrawnNegatives | None = None


class Metrics(ResultFile):
    """`metrics.json`: every system of a run on the same test rows."""

    FILE: ClassVar[str] = "metrics.json"
    REMAKE: ClassVar[str] = "run `llm4msr evaluate` again"

    counting: SystemMetrics
    plain: SystemMetrics
    knowledge: SystemMetrics
    without_text: SystemMetrics | None = None

    def of(self, system: str) -> SystemMetrics | None:
        """The metrics of a system; None where it was not measured."""
        found: SystemMetrics | None = getattr(self, system, None)
        return found

    def chosen(self, system: System) -> SystemMetrics:
        """The metrics of one of the two that may go live."""
        return {"plain": self.plain, "knowledge": self.knowledge}[system]


class Change(Part):
    """A measure of two systems, the second minus the first, with a confidence interval.

    Attributes:
        champion: the first one's.
        challenger: the second one's.
        difference, low, high: None where they are undefined.
        told: whether the interval excludes zero.
        says: that in words, of the second.
    """

    champion: float | None
    challenger: float | None
    difference: float | None
    low: float | None
    high: float | None
    told: bool
    says: Says


class GroupChange(Part):
    """AUC and log loss of two systems on some rows."""

    rows: int
    users: int
    auc: Change
    logloss: Change

    @property
    def measures(self) -> Iterator[tuple[str, Change]]:
        """Both by their names in print."""
        return iter((("AUC", self.auc), ("log loss", self.logloss)))


class Comparison(Part):
    """What `models.compare` says of two systems: all rows, each scenario, cold users."""

    overall: GroupChange
    scenarios: Mapping[str, GroupChange]
    cold: GroupChange
    confidence: float
    resamples: int
    seed: int


class Lift(ResultFile, Comparison):
    """`lift.json`: the model with knowledge over the plain one."""

    FILE: ClassVar[str] = "lift.json"
    REMAKE: ClassVar[str] = Metrics.REMAKE


class OverCounting(ResultFile, Comparison):
    """`over_counting.json`: the model that may go live over counting."""

    FILE: ClassVar[str] = "over_counting.json"
    REMAKE: ClassVar[str] = Metrics.REMAKE


class Ladder(ResultFile):
    """`ladder.json`: the model with knowledge over each other system."""

    FILE: ClassVar[str] = "ladder.json"
    REMAKE: ClassVar[str] = Metrics.REMAKE

    counting: Comparison
    plain: Comparison
    without_text: Comparison | None = None

    def of(self, system: str) -> Comparison | None:
        """The comparison with a system; None where there is none."""
        found: Comparison | None = getattr(self, system, None)
        return found


class Choice(ResultFile):
    """`choice.json`: which of a run's two models may go live, and why."""

    FILE: ClassVar[str] = "choice.json"
    REMAKE: ClassVar[str] = Metrics.REMAKE

    system: System
    reason: str


class JudgedGroup(BaseModel):
    """A group of scenarios in a verdict: both AUCs and the one-sided bound of their difference."""

    model_config = ConfigDict(frozen=True, extra="allow")

    rows: int
    users: int
    champion_auc: float
    challenger_auc: float
    difference: float
    lower_bound: float
    non_inferior: bool


class VerdictDetails(BaseModel):
    """What was computed for a verdict; the groups where there were any, and whatever its rule looked at."""

    model_config = ConfigDict(frozen=True, extra="allow")

    groups: Mapping[str, JudgedGroup] = Field(default_factory=dict)


class Promotion(ResultFile):
    """`verdict.json`: whether the run's model goes live.

    Attributes:
        promote: the answer.
        reason: one sentence for people.
        details: what was computed.
        choice: which of the run's models it was about.
        challenger: its bundle, relative to the root.
        champion: the bundle that was live; None: there was none.
    """

    FILE: ClassVar[str] = "verdict.json"
    REMAKE: ClassVar[str] = "run `llm4msr promote` again"

    promote: bool
    reason: str
    details: VerdictDetails
    choice: Choice
    challenger: str
    champion: str | None


class Quality(Part):
    """AUC, None where only one class is there, and log loss of validation rows."""

    auc: float | None
    logloss: float


class Epoch(Quality):
    """What an epoch of a training came to; epoch 0 is the base, before any step.

    Attributes:
        epoch: its number.
        loss: mean loss of its training rows.
    """

    epoch: int
    loss: float


class Curves(ResultFile):
    """`curves.json`: every epoch of both systems' trainings."""

    FILE: ClassVar[str] = "curves.json"
    REMAKE: ClassVar[str] = "delete the artifact and run `llm4msr train` again"

    plain: tuple[Epoch, ...]
    knowledge: tuple[Epoch, ...]

    @property
    def by_system(self) -> dict[System, tuple[Epoch, ...]]:
        """Both by their names."""
        return {"knowledge": self.knowledge, "plain": self.plain}


class Placebo(Part):
    """A placebo's metrics, and the model with knowledge over it."""

    metrics: SystemMetrics
    against: Comparison


class Controls(ResultFile):
    """`controls.json`: what the placebos showed when they were trained last.

    Attributes:
        runs_ago: how many runs ago that was.
        window: of that run.
        placebos: by name; empty where none was trained.
    """

    FILE: ClassVar[str] = "controls.json"
    REMAKE: ClassVar[str] = "run the stage `controls` again"

    runs_ago: int
    window: Mapping[str, str | None]
    placebos: Mapping[str, Placebo]
