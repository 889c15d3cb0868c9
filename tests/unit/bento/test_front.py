"""Before all else: heads that are too long or never end, and a crowd that is refused before anything is counted."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from unit.bento.test_admission import Waiting, client_of, settings_of

import bento.front
from bento.admission import Admission
from bento.front import MAX_HEAD, BoundedConnection, Front


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with socket.socket() as listening, pytest.MonkeyPatch.context() as patch:
        patch.setattr(bento.front, "HEAD_SECONDS", 0.2)
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(hello, http=BoundedConnection, lifespan="off", log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(60)


def told(port: int, *parts: bytes) -> bytes:
    """What is answered until the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        answer = b""
        try:
            for part in parts:
                connection.sendall(part)
            while data := connection.recv(65_536):
                answer += data
        except ConnectionError:
            pass
        return answer


HEAD = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


def test_a_head_within_the_bounds_is_answered(port: int) -> None:
    assert told(port, HEAD, b"A: %s\r\n" % (b"a" * (MAX_HEAD - 1000)), b"\r\n").startswith(b"HTTP/1.1 200")
    assert told(port, HEAD + b"\r\n").endswith(b"hi")


def test_a_head_that_is_too_long_is_refused_at_once_or_as_it_comes(port: int) -> None:
    assert not told(port, HEAD + b"A: %s\r\n\r\n" % (b"a" * (MAX_HEAD + 1))).startswith(b"HTTP/1.1 200")
    assert not told(port, HEAD, *([b"B: %s\r\n" % (b"b" * 1000)] * 100), b"\r\n").startswith(b"HTTP/1.1 200")
    assert not told(port, HEAD, b"C: ", *([b"c" * 4096] * 200)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("part", [b"", b"GET / HT", HEAD])
def test_a_head_that_does_not_end_is_not_waited_for(port: int, part: bytes) -> None:
    assert told(port, part) == b""


def test_a_second_head_on_a_connection_is_waited_for_no_longer(port: int) -> None:
    answer = told(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\n")
    assert answer.count(b"200 OK") == 1


def test_a_crowd_is_refused_before_anything_beneath_sees_it(tmp_path: Path) -> None:
    seen = 0

    async def crowd() -> list[int]:
        app = Waiting()
        admission = Admission(app, settings_of(tmp_path, max_concurrency=2))

        async def counting(scope: Any, receive: Any, send: Any) -> None:
            nonlocal seen
            seen += 1
            await admission(scope, receive, send)

        async with client_of(Front(counting)) as client:
            asked = [asyncio.ensure_future(client.post("/rank")) for _ in range(6)]
            while sum(task.done() for task in asked) < 4:
                await asyncio.sleep(0)
            app.gate.set()
            answers = await asyncio.gather(*asked)
            assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 429)
            return [answer.status_code for answer in answers]

    assert sorted(asyncio.run(crowd())) == [200, 200, 429, 429, 429, 429]
    assert seen == 2
