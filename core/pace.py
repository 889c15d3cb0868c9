"""How far a run is: one bar or one line for all of it, whatever loops run inside.

`whole` opens a run of planned stages. Loops inside a stage are marked with `progress`, and may lie within each other: a
loop fills the step of the loop around it. Several loops one after the other in one step share it; `portion` says how.
A loop outside any run is a run of its own.

Off a terminal a line is written every few seconds, also while nothing reports; with JSON logs it carries the numbers as
fields. The share that is done never goes back. The time left may grow: it is what was measured, not what was hoped for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from core import log

T = TypeVar("T")
LINE_SECONDS = 8.0
_BAR_SECONDS = 0.5
# From this share of a stage on, the time left is what the stage itself shows, not what was planned.
_TOLD = 0.1
# How far the speed of this machine today may lie from the plan's, either way.
_SPEED = 4.0


class Status(NamedTuple):
    """How far a run is.

    Attributes:
        percent: 0 to 100; never less than before.
        left: seconds; None while nothing can be said.
        stage: under way.
        doing: the loop under way and how far it is, for people; empty without one.
    """

    percent: int
    left: float | None
    stage: str
    doing: str


class Loop:
    """A loop under way. `total` and `done` are in units; None: it is not known how many there will be."""

    def __init__(
        self, description: str, total: float | None, unit: str, share: float, now: Callable[[], float] | None = None
    ) -> None:
        self.description, self.total, self.unit, self.share = description, total, unit, share
        self._now = now
        self.first: float | None = None  # when the first loop within it began, where there is a clock
        self.done = self.step = self.covered = 0.0
        self.inner: Loop | None = None

    def begin(self, size: float) -> None:
        """A step of some units begins; the one before it is done."""
        self.done += self.step
        self.step, self.covered, self.inner = size, 0.0, None

    def open(self, inner: Loop, share: float | None) -> None:
        """A loop begins within this one's step; without a share it gets half of what is left of the step."""
        if self._now is not None and self.first is None:
            self.first = self._now()
        inner.share = (1.0 - self.covered) * 0.5 if share is None else min(share, 1.0 - self.covered)
        self.inner = inner

    def close(self, inner: Loop) -> None:
        """A loop within this one's step has ended."""
        if self.inner is inner:
            self.covered, self.inner = self.covered + inner.share, None

    @property
    def fraction(self) -> float:
        """What is done of it, 0 to 1."""
        return min(1.0, self.units / self.total) if self.total else 0.0

    @property
    def units(self) -> float:
        """Units done, with the part of the step that loops within it have done."""
        inner = self.inner
        return self.done + self.step * (self.covered + (inner.share * inner.fraction if inner is not None else 0.0))

    def __str__(self) -> str:
        count = f"{int(self.units):,}"
        return (
            f"{self.description} {count} of {int(self.total):,} {self.unit}"
            if self.total
            else f"{self.description} {count} {self.unit}"
        )


class Run:
    """A run under way.

    Args:
        planned: stage to seconds, in order.
        now: seconds of a clock that only goes forwards.
    """

    def __init__(self, planned: Mapping[str, float], now: Callable[[], float] = time.monotonic) -> None:
        self.planned, self._now = dict(planned), now
        self.began = self._stage_began = now()
        self.stage = next(iter(self.planned), "")
        self.top = Loop("", 1.0, "", 1.0, now)
        self._speed = [5.0, 5.0]  # seconds taken and planned of the stages that were worked at; begins as if equal
        self._share, self._seen = 0.0, 0.0  # what was last said to be done, 0 to 1, and after how many seconds
        self._reached = (0.0, 0.0)  # of the stage: the share that was seen done last, and after how many seconds

    def begin(self, stage: str) -> None:
        """A stage begins."""
        self.stage, self._stage_began, self.top = stage, self._now(), Loop("", 1.0, "", 1.0, self._now)
        self.top.begin(1.0)
        self._reached = (0.0, 0.0)

    def end(self, worked: bool = True) -> float:
        """The stage has ended; the seconds it took.

        Args:
            worked: False where there was nothing to do, which says nothing of the machine's speed.
        """
        taken = self._now() - self._stage_began
        if worked:
            self._speed[0] += taken
            self._speed[1] += self.planned.get(self.stage, 0.0)
        self.planned.pop(self.stage, None)
        return taken

    def plan(self, planned: Mapping[str, float]) -> None:
        """Better estimates of stages that are still to come."""
        self.planned.update(planned)

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return self._now() - self.began

    def status(self) -> Status:
        """How far it is now."""
        now, top = self._now(), self.top
        speed = min(_SPEED, max(1 / _SPEED, self._speed[0] / self._speed[1]))
        later = sum(seconds for stage, seconds in self.planned.items() if stage != self.stage) * speed
        left = later + self._left(now - self._stage_began, top.fraction, self.planned.get(self.stage, 0.0) * speed)
        elapsed, inner = now - self.began, _told(top)
        known = self.planned.get(self.stage, 0.0) > 0 or top.fraction > 0
        since = max(0.0, elapsed - self._seen)
        if known and since + left > 0:
            # From what was said on, at the pace that ends with the time left: it never goes back, and never stands still
            # because there was more to do than planned.
            self._share += (1 - self._share) * since / (since + left)
        self._seen = elapsed
        return Status(
            min(99, int(100 * self._share)),
            left if known else None,
            self.stage,
            str(inner) if inner is not None else "",
        )

    def _left(self, elapsed: float, fraction: float, planned: float) -> float:
        """Seconds that the stage will still take."""
        if fraction > self._reached[0]:
            self._reached = (fraction, elapsed)
        done, after = self._reached
        # While nothing reports: as planned, and what lasts longer than that may well last half as long again.
        whole = max(planned, 1.5 * elapsed)
        if done:
            trust = min(1.0, done / _TOLD)
            # What came before the first loop (imports, a model to load) will not come again.
            setup = 0.0 if self.top.first is None else self.top.first - self._stage_began
            whole = trust * (setup + (after - setup) / done) + (1 - trust) * whole
        return max(whole - elapsed, 0.5 * (elapsed - after))


def _told(top: Loop) -> Loop | None:
    """The outermost loop with a name."""
    loop = top.inner
    while loop is not None and not loop.description:
        loop = loop.inner
    return loop


_RUNS: list[Run] = []


@contextmanager
def whole(planned: Mapping[str, float]) -> Iterator[Run]:
    """A run of stages, shown until it ends; within another run nothing new is shown.

    Args:
        planned: stage to seconds, in order; 0 where nothing is known.
    """
    run = Run(planned)
    silent = bool(_RUNS) or not log.is_shown()
    _RUNS.append(run)
    try:
        if silent:
            yield run
        else:
            with _bar(run) if log.console() is not None else _lines(run):
                yield run
    finally:
        _RUNS.remove(run)


def progress(
    items: Iterable[T],
    description: str = "",
    total: float | None = None,
    unit: str = "",
    *,
    size: Callable[[T], float] = lambda _: 1,
    share: float | None = None,
) -> Iterator[T]:
    """Yield `items`, and let whoever watches the run know how far they are.

    Args:
        items: what is worked through, one step each.
        description: what is being done, e.g. "reading titles"; without one the loop around it is named.
        total: units of all steps; taken from `items` where it has a length.
        unit: what is counted, e.g. "titles".
        size: units of a step.
        share: how much of the step around it this loop is, 0 to 1; None: half of what is left of it.
    """
    if total is None and isinstance(items, Sized):
        total = sum(size(item) for item in items)
    loop = Loop(description, total, unit, 1.0)
    if (around := _deepest()) is not None:
        yield from _steps(items, loop, size, around, share)
        return
    with whole({description: 0.0}) as run:
        run.begin(description)
        yield from _steps(items, loop, size, run.top, 1.0)


def _deepest() -> Loop | None:
    """The innermost loop under way."""
    if not _RUNS:
        return None
    loop = _RUNS[-1].top
    while loop.inner is not None:
        loop = loop.inner
    return loop


def _steps(
    items: Iterable[T], loop: Loop, size: Callable[[T], float], around: Loop, share: float | None
) -> Iterator[T]:
    around.open(loop, share)
    try:
        for item in items:
            loop.begin(size(item))
            yield item
    finally:
        around.close(loop)


@contextmanager
def portion(share: float) -> Iterator[None]:
    """What loops within the block are together of the step around it, 0 to 1."""
    around = _deepest()
    if around is None:
        yield
        return
    loop = Loop("", 1.0, "", share)
    around.open(loop, share)
    loop.begin(1.0)
    try:
        yield
    finally:
        around.close(loop)


def duration(seconds: float) -> str:
    """Seconds as people say them: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole_seconds = round(seconds)
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    parts: list[str] = []
    for name, size in units:
        count, whole_seconds = divmod(whole_seconds, size)
        if count or parts:
            parts.append(f"{count} {name}" if count else "")
    return " ".join(part for part in parts[:2] if part)


def left_in_words(seconds: float) -> str:
    """The time left, no finer than it is known: `about 3 min left`."""
    if seconds < 60:
        return f"about {max(5, 5 * round(seconds / 5))} s left"
    if seconds < 3_600:
        return f"about {round(seconds / 60)} min left"
    if seconds < 86_400:
        return f"about {seconds / 3_600:.1f} h left"
    return f"about {seconds / 86_400:.1f} d left"


def line(status: Status) -> str:
    """A status as a line of the log."""
    doing = f"{status.stage}: {status.doing}" if status.doing and status.doing != status.stage else status.stage
    return f"{status.percent} % done, {left_in_words(status.left)}; {doing}" if status.left is not None else doing


@contextmanager
def _lines(run: Run) -> Iterator[None]:
    told = log.logger("progress")

    def tell() -> None:
        status = run.status()
        told.info("%s", line(status), extra={k: v for k, v in _fields(status).items() if v is not None})

    with _every(LINE_SECONDS, tell):
        yield


def _fields(status: Status) -> dict[str, Any]:
    left = None if status.left is None else round(status.left)
    return {"percent": status.percent, "seconds_left": left, "stage": status.stage}


@contextmanager
def _bar(run: Run) -> Iterator[None]:
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    name = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    numbers = TextColumn("{task.fields[numbers]}", table_column=Column(no_wrap=True))
    # What goes to stdout is an answer, also while stderr shows the bar.
    bar = Progress(
        name,
        BarColumn(bar_width=16),
        numbers,
        console=log.console(),
        transient=True,
        expand=True,
        redirect_stdout=False,
    )
    task = bar.add_task("", total=100, numbers="")

    def tell() -> None:
        status = run.status()
        doing = f"{status.stage}: {status.doing}" if status.doing else status.stage
        numbers = "" if status.left is None else f"{status.percent} %, {left_in_words(status.left)}"
        bar.update(task, completed=status.percent, description=doing, numbers=numbers)

    tell()
    with bar, _every(_BAR_SECONDS, tell):
        yield


@contextmanager
def _every(seconds: float, tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` in a thread again and again: a stage that reports nothing must not look dead."""
    over = threading.Event()

    def turns() -> None:
        while not over.wait(seconds):
            tell()

    thread = threading.Thread(target=turns, name="llm4msr-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
