"""`llm4msr push --follow`: JSON lines from a pipe, in small batches, acknowledged once they are online.

Whatever consumes the stream (Kafka, NATS, a file) writes one object a line and reads one acknowledgement a batch; only
then it may commit its offsets. So each line is delivered at least once, and a line that comes twice counts once.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from core import Settings, logger
from core.errors import DataError, StorageError
from core.objects import read_json

if TYPE_CHECKING:
    from feature_repo.pusher import CurrentPusher

LOG = logger("cli")
LONGEST = 1 << 20
_READ = 1 << 16
# A store that does not answer is asked again after so many seconds; then the command ends, unacknowledged.
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass
class Totals:
    """What one call of `follow` did."""

    lines: int = 0
    pushed: int = 0
    rejected: int = 0

    def __str__(self) -> str:
        return f"{self.lines:,} lines: {self.pushed:,} pushed, {self.rejected:,} rejected"


def follow(settings: Settings, source: str, out: TextIO, dead_letters: Path | None = None) -> Totals:
    """Push lines until the input ends or the process is asked to stop (SIGTERM, SIGINT); what was read is written first.

    Acknowledgements are JSON lines: `from` and `to` (line numbers, from 1), `pushed`, `rejected`, `users` and
    `unknown_items` (not in the catalogue). A line that
    cannot be used is appended to the dead letters with its number, field, reason and text, and holds up nothing.

    Args:
        settings: `push.batch_rows` and `push.batch_ms` say when a batch is written.
        source: a file or named pipe; `-` for standard input.
        out: where acknowledgements go.
        dead_letters: default `root/live/rejected.jsonl`.

    Raises:
        DataError: the source cannot be opened.
        MissingArtifactError: nothing was materialised yet.
        StorageError: the store did not answer for 15 s; the last batch was not acknowledged.
    """
    from feature_repo import CurrentPusher

    current, totals = CurrentPusher(settings), Totals()
    current.get().prepare()
    letters = dead_letters or settings.root / "live" / "rejected.jsonl"
    with _opened(source) as file, _asked_to_stop() as stop:
        for batch in Lines(file, stop, settings.push.batch_rows, settings.push.batch_ms / 1000).batches():
            answer = _patiently(partial(_push, current, batch), stop)
            keep_rejected(letters, answer["faults"])
            totals.lines += len(batch)
            totals.pushed += answer["pushed"]
            totals.rejected += len(answer["faults"])
            done = {"from": batch[0].number, "to": batch[-1].number, "pushed": answer["pushed"]}
            done |= {"rejected": len(answer["faults"]), "users": answer["users"]}
            print(json.dumps({**done, "unknown_items": answer["unknown_items"]}), file=out, flush=True)
    return totals


class Line(NamedTuple):
    """A line of the input and its number, from 1."""

    number: int
    text: bytes


@dataclass
class Lines:
    """Batches of lines from a file descriptor.

    Args:
        file: where lines come from.
        stop: readable once the process is asked to stop.
        rows: a batch has so many lines at the most.
        seconds: a line waits so long at the most.
    """

    file: int
    stop: int
    rows: int
    seconds: float
    _rest: bytes = b""
    _ready: list[Line] = field(default_factory=list)
    _read_so_far: int = 0

    def batches(self) -> Iterator[list[Line]]:
        """Batches until the input ends or the process is asked to stop; never an empty one."""
        deadline, over = 0.0, False
        while not over:
            waiting = bool(self._ready)
            left = max(0.0, deadline - time.monotonic()) if waiting else None
            ready, _, _ = select.select([self.file, self.stop], [], [], left)
            if self.stop in ready:
                over = True
            elif self.file in ready:
                over = not self._read()
                if self._ready and not waiting:
                    deadline = time.monotonic() + self.seconds
            while len(self._ready) >= self.rows:
                yield self._take(self.rows)
                deadline = time.monotonic() + self.seconds
            if self._ready and (over or time.monotonic() >= deadline):
                yield self._take(len(self._ready))

    def _take(self, count: int) -> list[Line]:
        taken, self._ready = self._ready[:count], self._ready[count:]
        return taken

    def _read(self) -> bool:
        """Read what is there; False at the end of the input, whose last line may lack its end."""
        data = os.read(self.file, _READ)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data and self._rest:
            lines, self._rest = [*lines, self._rest], b""
        # What is too long to be an interaction is cut, so that it is rejected and memory stays bounded.
        self._rest = self._rest[: LONGEST + 1]
        numbered = (Line(self._read_so_far + n, line) for n, line in enumerate(lines, 1))
        self._ready += [line for line in numbered if line.text.strip()]
        self._read_so_far += len(lines)
        return bool(data)


def _push(current: CurrentPusher, lines: list[Line]) -> dict[str, Any]:
    """Push a batch; `faults` are the lines that were not taken, each as it goes to the dead letters."""
    records, read, faults = [], [], []
    for line in lines:
        try:
            if len(line.text) > LONGEST:
                raise ValueError(f"longer than {LONGEST:,} bytes")
            records.append(read_json(line.text))
            read.append(line)
        except ValueError as error:
            faults.append(_letter(line, "", str(error)))
    done = current.get().push_records(records)
    faults += [_letter(read[fault.row], fault.field, fault.reason) for fault in done.faults]
    unknown = len(done.unknown_items)
    return {
        "pushed": done.rows,
        "users": done.users,
        "unknown_items": unknown,
        "faults": sorted(faults, key=lambda letter: letter["line"]),
    }


def _letter(line: Line, name: str, reason: str) -> dict[str, Any]:
    text = line.text[:LONGEST].decode("utf-8", "replace")
    return {"line": line.number, "field": name, "reason": reason, "text": text}


def _patiently(push: Callable[[], dict[str, Any]], stop: int) -> dict[str, Any]:
    """Push, again after a while where a store does not answer: pushing twice is harmless."""
    for wait in WAITS:
        try:
            return push()
        except StorageError as error:
            LOG.warning("%s; trying again in %s s", error, wait)
            if select.select([stop], [], [], wait)[0]:
                break
    return push()


def keep_rejected(file: Path, letters: list[dict[str, Any]]) -> None:
    """Append rows that were refused to the dead letters, and log each."""
    if not letters:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as stream:
        for letter in letters:
            stream.write(json.dumps(letter, ensure_ascii=False) + "\n")
            LOG.warning("line %s, field %r: %s", letter["line"], letter["field"], letter["reason"])
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def _opened(source: str) -> Iterator[int]:
    if source == "-":
        yield 0
        return
    try:
        file = os.open(source, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"cannot be opened ({error.strerror})", file=source) from error
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def _asked_to_stop() -> Iterator[int]:
    """A file descriptor that can be read once SIGTERM or SIGINT came; both do what they did before afterwards."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    before = {
        kind: signal.signal(kind, lambda *_: os.write(writable, b".")) for kind in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield readable
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
        os.close(readable)
        os.close(writable)
