"""Who is let in: tokens by group of routes, and no more at once than can be answered soon."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from bento.admission import Admission, Tokens, group_of
from core import Settings
from core.digest import REPOSITORY
from pipeline.commands.serve import curl_lines, free_port, service_command, stop_service

READ, WRITE, ADMIN = "r" * 16, "w" * 16, "a" * 16
ALL = {"read": READ, "write": WRITE, "admin": ADMIN}


class Waiting:
    """An app that answers once it is told to."""

    def __init__(self) -> None:
        self.gate, self.within, self.most = asyncio.Event(), 0, 0

    async def __call__(self, scope: Any, receive: Any, send: Callable[..., Awaitable[None]]) -> None:
        self.within += 1
        self.most = max(self.most, self.within)
        try:
            await self.gate.wait()
            if scope["path"].endswith("explain"):
                raise RuntimeError("planted")
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})
        finally:
            self.within -= 1


def client_of(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://service")


def settings_of(tmp_path: Path, **serving: Any) -> Callable[[], Settings]:
    settings = Settings(root=tmp_path, serving=serving, push={"max_concurrency": 2})
    return lambda: settings


async def crowd(tmp_path: Path) -> dict[str, Any]:
    app = Waiting()
    async with client_of(Admission(app, settings_of(tmp_path, max_concurrency=3))) as client:
        asked = [asyncio.ensure_future(client.post("/rank")) for _ in range(10)]
        asked += [asyncio.ensure_future(client.post("/push")) for _ in range(5)]
        done, _ = await asyncio.wait(asked, timeout=5, return_when=asyncio.FIRST_EXCEPTION)
        refused = [task.result() for task in done]
        app.gate.set()
        answers = await asyncio.gather(*asked)
        after = [(await client.post("/rank")).status_code for _ in range(5)]
        broken = [(await client.post("/explain")).status_code for _ in range(9)]
        return {"refused": refused, "answers": answers, "most": app.most, "after": after, "broken": broken}


def test_a_crowd_is_refused_at_once_and_those_within_are_answered(tmp_path: Path) -> None:
    found = asyncio.run(crowd(tmp_path))
    codes = [answer.status_code for answer in found["answers"]]
    assert sorted(codes[:10]) == [200] * 3 + [429] * 7
    assert sorted(codes[10:]) == [200] * 2 + [429] * 3, "pushes have room of their own"
    assert len(found["refused"]) == 10 and found["most"] == 5, "before anybody within was answered"
    for answer in found["refused"]:
        assert answer.headers["retry-after"] == "1" and "max_concurrency" in answer.json()["detail"]
    assert found["after"] == [200] * 5, "room is free again"
    assert found["broken"] == [500] * 9, "also after an answer that failed"


async def at_once(tmp_path: Path, count: int) -> list[int]:
    """Requests that have all come before the first is answered, by an app that never waits, as a ranking does not."""

    async def busy(scope: Any, receive: Any, send: Callable[..., Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    app, codes = Admission(busy, settings_of(tmp_path, max_concurrency=3)), [0] * count
    scope = {"type": "http", "path": "/rank", "method": "POST", "headers": []}

    async def ask(place: int) -> None:
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                codes[place] = message["status"]

        async def nothing() -> Any:
            return {"type": "http.request", "body": b""}

        await app(scope, nothing, sent)

    await asyncio.gather(*(ask(place) for place in range(count)))
    return codes


def test_requests_that_never_wait_are_counted_too(tmp_path: Path) -> None:
    assert asyncio.run(at_once(tmp_path, 10)) == [200] * 3 + [429] * 7


@pytest.mark.parametrize(
    ("path", "group"),
    [("/livez", None), ("/readyz", None), ("/rank", "read"), ("/explain", "read"), ("/scenarios", "read"), ("/", "read"),
     ("/docs.json", "read"), ("/schema.json", "read"), ("/none", "read"), ("/console", None), ("/console/users", "read"), ("/push", "write"), ("/metrics", "admin"),
     ("/metrics/", "admin")],
)  # fmt: skip
def test_each_route_belongs_to_a_group(path: str, group: str | None) -> None:
    assert group_of(path) == group


@pytest.mark.parametrize(
    ("tokens", "path", "sent", "status"),
    [
        ({}, "/rank", None, 200),
        (ALL, "/livez", None, 200),
        (ALL, "/rank", None, 401),
        (ALL, "/rank", f"Bearer {READ}", 200),
        (ALL, "/rank", f"bearer  {READ} ", 200),
        (ALL, "/rank", f"Basic {READ}", 401),
        (ALL, "/rank", READ, 401),
        (ALL, "/rank", f"Bearer {READ[:-1]}", 401),
        (ALL, "/rank", f"Bearer {READ}r", 401),
        (ALL, "/rank", "Bearer ", 401),
        (ALL, "/rank", f"Bearer {WRITE}", 401),
        (ALL, "/push", f"Bearer {READ}", 401),
        (ALL, "/push", f"Bearer {WRITE}", 200),
        (ALL, "/metrics", f"Bearer {ADMIN}", 200),
        ({"read": READ}, "/push", None, 401),
        ({"read": READ}, "/push", f"Bearer {READ}", 200),
        ({"read": READ}, "/metrics", None, 401),
        ({"write": WRITE}, "/rank", None, 200),
        ({"write": WRITE}, "/push", None, 401),
        ({"write": WRITE}, "/metrics", None, 200),
    ],
)
def test_a_token_opens_its_own_group(
    tmp_path: Path, tokens: dict[str, str], path: str, sent: str | None, status: int
) -> None:
    async def ask() -> httpx.Response:
        app = Waiting()
        app.gate.set()
        headers = {} if sent is None else {"Authorization": sent}
        async with client_of(Tokens(app, settings_of(tmp_path, tokens=tokens))) as client:
            return await client.post(path, headers=headers)

    answer = asyncio.run(ask())
    assert answer.status_code == status
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "serving.tokens" in answer.json()["detail"]
        assert not any(token in answer.text for token in ALL.values())


def test_a_short_token_is_refused_and_not_told() -> None:
    with pytest.raises(ValidationError) as found:
        Settings(serving={"tokens": {"read": "hunter2"}})
    assert "at least 16" in str(found.value)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A real service with tokens, of which each route asks for one, and no /explain."""
    import os
    import subprocess
    import time

    folder = tmp_path_factory.mktemp("guarded")
    (folder / "settings.yaml").write_text(f"root: {folder / 'root'}\nserving: {{explain: false}}\n")
    port = free_port()
    own = {
        "LLM4MSR_SETTINGS": str(folder / "settings.yaml"),
        "LLM4MSR_SERVING__TOKENS__READ": READ,
        "LLM4MSR_SERVING__TOKENS__ADMIN": ADMIN,
        "BENTOML_HOME": str(folder / "bentoml"),
        "PYTHONPATH": str(REPOSITORY),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            service_command("127.0.0.1", port), cwd=REPOSITORY, env={**os.environ, **own}, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
            for _ in range(6000):
                try:
                    client.get("/livez")
                    break
                except httpx.TransportError:
                    assert process.poll() is None, (folder / "log").read_text()[-2000:]
                    time.sleep(0.1)
            yield client
        assert READ not in (folder / "log").read_text() and ADMIN not in (folder / "log").read_text()
    finally:
        stop_service(process)


def test_a_real_service_asks_for_the_token_on_every_route_but_its_probes(guarded: httpx.Client) -> None:
    body = {"user_id": 1, "scenario": "home"}
    assert guarded.get("/livez").status_code == 200
    assert guarded.get("/readyz").status_code == 503
    for method, route in (("POST", "/rank"), ("POST", "/push"), ("GET", "/scenarios"), ("GET", "/"), ("GET", "/docs.json"),
                          ("GET", "/metrics"), ("GET", "/schema.json"), ("GET", "/nowhere")):  # fmt: skip
        assert guarded.request(method, route, json=body).status_code == 401, route
    with_token = {"Authorization": f"Bearer {READ}"}
    assert guarded.post("/rank", json=body, headers=with_token).status_code == 503, "nothing is live yet"
    answer = guarded.post("/explain", json=body | {"item_id": 1}, headers=with_token)
    assert answer.status_code == 404 and "serving.explain" in answer.text
    assert "/explain" not in guarded.get("/docs.json", headers=with_token).json()["paths"]
    metrics = guarded.get("/metrics", headers={"Authorization": f"Bearer {ADMIN}"})
    assert metrics.status_code == 200 and 'llm4msr_refused_total{why="token"}' in metrics.text


def test_commands_to_try_bear_the_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("pipeline.commands.serve.example_request", lambda _: (1, "home", 2))
    lines = curl_lines(Settings(root=tmp_path, serving={"tokens": {"read": READ}, "explain": False}), "http://service")
    assert all("LLM4MSR_SERVING__TOKENS__READ" in line for line in lines if "readyz" not in line)
    assert not any("/explain" in line or READ in line for line in lines)
