"""A request's own deadline: what comes later is not computed."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from unit.bento.test_admission import Waiting, client_of, settings_of

from bento import deadline
from bento.admission import Admission, _Metered
from bento.deadline import TooLateError


@pytest.mark.parametrize("header", ["X-Request-Timeout-Ms", "x-envoy-expected-rq-timeout-ms"])
def test_the_seconds_that_are_left_are_those_of_the_header(header: str) -> None:
    deadline.begin({header.lower().encode(): b" 60000 "})
    seconds = deadline.left()
    assert seconds is not None and 0 < seconds <= 60
    deadline.begin({})
    assert deadline.left() is None


def test_ours_counts_before_envoys() -> None:
    deadline.begin({b"x-envoy-expected-rq-timeout-ms": b"1", b"x-request-timeout-ms": b"60000"})
    assert (deadline.left() or 0) > 1


def test_none_is_left_once_it_is_over() -> None:
    deadline.begin({b"x-request-timeout-ms": b"0"})
    with pytest.raises(TooLateError, match="x-request-timeout-ms"):
        deadline.left()
    with pytest.raises(TooLateError):
        deadline.left(time.monotonic() - 1)


async def asked(tmp_path: Path, value: str) -> tuple[httpx.Response, int]:
    app = Waiting()
    app.gate.set()
    async with client_of(Admission(app, settings_of(tmp_path))) as client:
        return await client.post("/rank", headers={"X-Request-Timeout-Ms": value}), app.most


def test_a_request_whose_deadline_is_over_before_its_turn_is_refused_and_not_begun(tmp_path: Path) -> None:
    answer, begun = asyncio.run(asked(tmp_path, "0"))
    assert (answer.status_code, answer.json()["code"], begun) == (504, "too_slow", 0)
    answer, begun = asyncio.run(asked(tmp_path, "60000"))
    assert (answer.status_code, begun) == (200, 1)


@pytest.mark.parametrize("value", ["soon", "-1", "1.5", "", "9" * 10])
def test_a_deadline_that_is_no_number_is_refused(tmp_path: Path, value: str) -> None:
    answer, begun = asyncio.run(asked(tmp_path, value))
    assert (answer.status_code, begun) == (400, 0)
    assert "x-request-timeout-ms is no whole number of milliseconds" in answer.json()["detail"]


def test_waiting_is_not_metered_as_work() -> None:
    """A request that waits for the store takes nothing of the loop's time meanwhile."""

    async def work(gate: asyncio.Event, steps: list[str]) -> None:
        await gate.wait()
        steps.append("began")
        with pytest.raises(KeyError):
            await asyncio.gather(broken())
        steps.append("went on")

    async def broken() -> None:
        await asyncio.sleep(0)
        raise KeyError("planted")

    async def both() -> tuple[float, float, list[str]]:
        gate, steps = asyncio.Event(), list[str]()
        meter = _Metered(work(gate, steps))

        async def run() -> Any:
            return await meter

        begin = time.perf_counter()
        task = asyncio.ensure_future(run())
        while time.perf_counter() - begin < 0.2:
            await asyncio.sleep(0.01)
        gate.set()
        await task
        return meter.seconds, time.perf_counter() - begin, steps

    seconds, whole, steps = asyncio.run(both())
    assert steps == ["began", "went on"]
    assert 0 < seconds < whole - 0.15


def test_a_request_that_is_given_up_ends_its_work() -> None:
    async def give_up() -> list[str]:
        ended: list[str] = []

        async def work() -> None:
            try:
                await asyncio.sleep(600)
            finally:
                ended.append("ended")

        async def run() -> None:
            await _Metered(work())

        task = asyncio.ensure_future(run())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return ended

    assert asyncio.run(give_up()) == ["ended"]
