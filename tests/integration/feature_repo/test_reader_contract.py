"""The online reader against Feast's own `get_online_features`, view by view and user by user, on both overlays."""

import asyncio
import os
import queue
import signal
import threading
import time
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import redis

import feature_repo
from core.errors import StorageError
from core.settings import OnlineSettings
from feature_repo import OnlineReader
from feature_repo.materialization import apply
from feature_repo.online import OnlineTable, entity_keys
from feature_repo.views import value_views

pytestmark = pytest.mark.integration
VERSIONS = {"pooled": "ab12", "scenario": "ab12"}
UNKNOWN = {"int64": 999_999, "string": "nobody"}


def reader_of(world, **settings):
    return OnlineReader(world.with_settings(**settings), world.clock, VERSIONS)


def asked_of_feast(store, view, ids):
    """What Feast answers for a view's columns: one mapping per id, or None where it knows nothing."""
    key = view.join_keys[0]
    names = [f"{view.name}:{feature.name}" for feature in view.features]
    answer = store.get_online_features(names, [{key: one} for one in ids]).to_dict()
    rows = [{feature.name: answer[feature.name][place] for feature in view.features} for place in range(len(ids))]
    return [None if row["published"] is None else row for row in rows]


def comparable(row):
    return row and {k: np.float32(v).tolist() if k == "vector" else v for k, v in row.items()}


def test_every_view_reads_as_feast_says(filled):
    store, generation, paths = apply(filled.settings, **filled.paths)
    many, single = OnlineTable(store), OnlineTable(store, retry=False)
    views = value_views(generation, paths)
    assert len(views) == 9
    for name, view in views.items():
        entity = name.split("_")[0]
        kind = {"user": generation.user_id, "item": generation.item_id}.get(entity, "string")
        ids = [*({"user": range(1, 12), "item": range(1, 12)}.get(entity, ["red", "blue"])), UNKNOWN[kind]]
        expected = [comparable(row) for row in asked_of_feast(store, view, ids)]
        assert any(expected) and expected[-1] is None, name
        assert [comparable(row) for row in many.read(view, ids)] == expected, name
        assert [comparable(single.read_views([view], one)[0]) for one in ids] == expected, name


def test_every_user_reads_as_feast_says(filled):
    store, generation, paths = apply(filled.settings, **filled.paths)
    users = [*range(1, filled.users + 1), UNKNOWN["int64"]]
    views = value_views(generation, paths)
    answers = {
        view: asked_of_feast(store, views[view], users)
        for view in ("user_features", "user_stats", "user_history", "user_pooled")
    }
    reader = reader_of(filled)
    for place, user in enumerate(users):
        state, rows = reader.read_user(user), {view: answers[view][place] for view in answers}
        assert state.status == {view: "missing" if row is None else "found" for view, row in rows.items()}
        assert state.published == {view: row["published"] for view, row in rows.items() if row is not None}
        columns = (rows["user_features"] or {}) | (rows["user_stats"] or {})
        assert state.values == {name: columns.get(name) for name in state.values}
        assert state.history == (rows["user_history"] or {"history": []})["history"]
        vector, expected = state.vectors["user_pooled"], (rows["user_pooled"] or {}).get("vector")
        assert (vector is None) == (expected is None)
        assert vector is None or vector.tobytes() == np.float32(expected).tobytes()


def test_reads_at_a_time_do_not_mix_users_up(filled):
    reader = reader_of(filled)
    users = list(range(1, filled.users + 1)) * 3

    async def together():
        return await asyncio.gather(*map(reader.read_user_async, users))

    assert [comparable_state(s) for s in asyncio.run(together())] == [
        comparable_state(reader.read_user(user)) for user in users
    ]


def comparable_state(state):
    vectors = {name: None if vector is None else vector.tobytes() for name, vector in state.vectors.items()}
    return state.user_id, state.values, state.history, vectors, state.status, state.published


@pytest.fixture
def on_redis(make_world, redis_server):
    """A filled world on Redis alone, with the registry in a file."""
    address = redis_server.replace("db=0", "db=2")
    world = make_world()
    world.settings = world.with_settings(online=OnlineSettings(store="redis", url=address, timeout_ms=60_000))
    with redis.Redis(port=int(address.split(":")[1].split(",")[0]), db=2) as client:
        client.flushdb()
        feature_repo.materialize(world.settings, world.clock, **world.paths)
        yield world, client


def test_a_connection_that_redis_closed_costs_no_read(on_redis):
    world, client = on_redis
    reader = reader_of(world)
    expected = comparable_state(reader.read_user(2))
    assert client.client_kill_filter(_type="normal", skipme=True) > 0
    assert comparable_state(reader.read_user(2)) == expected


@contextmanager
def stopped(client):
    """Redis is reached but answers nothing; when the block ends it answers what it was asked meanwhile."""
    process = client.info("server")["process_id"]
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def in_a_hurry(world):
    return reader_of(world, online=world.settings.online.model_copy(update={"timeout_ms": 100}))


def read_in_the_end(reader, user):
    """A state that is asked for until the answer comes within the reader's time-out."""
    limit = time.monotonic() + 600
    while time.monotonic() < limit:
        with suppress(StorageError):
            return reader.read_user(user)
    return reader.read_user(user)


def test_an_answer_that_came_too_late_is_not_taken_for_another_users(on_redis):
    world, client = on_redis
    reader, expected = in_a_hurry(world), comparable_state(reader_of(world).read_user(3))
    # From here on the reader has a connection.
    read_in_the_end(reader, 2)
    with stopped(client), pytest.raises(StorageError, match="Timeout"):
        reader.read_user(2)
    assert comparable_state(read_in_the_end(reader, 3)) == expected


def test_a_read_beside_the_event_loop_gives_up_after_the_timeout(on_redis):
    world, client = on_redis
    with stopped(client), pytest.raises(StorageError, match="Timeout"):
        asyncio.run(in_a_hurry(world).read_user_async(2))


def test_a_read_that_waits_does_not_hold_up_the_event_loop(on_redis):
    world, client = on_redis
    reader = reader_of(world)
    expected = comparable_state(reader.read_user(2))

    async def read():
        with stopped(client):
            waiting = asyncio.create_task(reader.read_user_async(2))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not waiting.done()
        return await waiting

    assert comparable_state(asyncio.run(read())) == expected


def test_an_awaited_answer_that_came_too_late_is_not_taken_for_another_users(on_redis):
    world, client = on_redis
    reader, expected = in_a_hurry(world), comparable_state(reader_of(world).read_user(3))

    async def read():
        with suppress(StorageError):
            await reader.read_user_async(2)
        with stopped(client), pytest.raises(StorageError, match="Timeout"):
            await reader.read_user_async(2)
        limit = time.monotonic() + 600
        while time.monotonic() < limit:
            with suppress(StorageError):
                return await reader.read_user_async(3)
        return None

    assert comparable_state(asyncio.run(read())) == expected


def test_awaited_connections_that_redis_closed_cost_no_read(on_redis):
    world, client = on_redis
    reader = reader_of(world)
    expected = comparable_state(reader.read_user(2))

    async def read():
        await asyncio.gather(*(reader.read_user_async(user) for user in (1, 2, 3)))
        assert client.client_kill_filter(_type="normal", skipme=True) > 0
        return [await reader.read_user_async(2) for _ in range(4)]

    assert [comparable_state(state) for state in asyncio.run(read())] == [expected] * 4


def test_texts_are_awaited_too(filled):
    reader = reader_of(filled)
    assert asyncio.run(reader.read_text_async("user", 1)) == reader.read_text("user", 1)
    assert asyncio.run(reader.read_text_async("user", 10**9)) is None


async def pour(reader, writer, at_a_time=4096, wait=0.0):
    while data := await reader.read(4096):
        for place in range(0, len(data), at_a_time):
            writer.write(data[place : place + at_a_time])
            await asyncio.sleep(wait)
    writer.close()


@contextmanager
def stood_before(port, answer):
    """The port of a server before a Redis, which hands on all that is asked; `answer` hands on the answers."""

    async def hand_on(reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", port)
        with suppress(OSError):
            await asyncio.gather(pour(reader, back), answer(there, writer))

    async def serve():
        async with await asyncio.start_server(hand_on, "127.0.0.1", 0) as server:
            ports.put(server.sockets[0].getsockname()[1])
            await over

    ports, loop = queue.Queue(), asyncio.new_event_loop()
    over = loop.create_future()
    threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True).start()
    try:
        yield ports.get(timeout=60)
    finally:
        loop.call_soon_threadsafe(over.set_result, None)


def reader_before(world, port, timeout_ms):
    return reader_of(
        world,
        online=world.settings.online.model_copy(update={"timeout_ms": timeout_ms, "url": f"127.0.0.1:{port},db=2"}),
    )


def test_one_deadline_is_over_the_whole_answer_however_it_drips(on_redis):
    """An answer of some thousand bytes would take half a minute, no wait of which is longer than the time-out."""
    world, client = on_redis

    async def dripping(reader, writer):
        await pour(reader, writer, at_a_time=1, wait=0.01)

    with stood_before(client.connection_pool.connection_kwargs["port"], dripping) as port:
        reader = reader_before(world, port, 500)
        with pytest.raises(StorageError, match="Timeout"):
            asyncio.run(reader.read_user_async(2))


def test_a_caller_in_a_hurry_is_told_sooner_than_the_time_out(on_redis):
    world, client = on_redis
    with stopped(client), pytest.raises(StorageError, match="within 50 ms"):
        asyncio.run(reader_of(world).read_user_async(2, 0.05))


def test_many_reads_wait_for_a_slow_store_at_once(on_redis):
    """Nobody is answered before all have asked: one after the other they would wait for ever."""
    world, client = on_redis
    asked = 0

    async def together(reader, writer):
        nonlocal asked
        asked += 1
        while asked < 16:
            await asyncio.sleep(0.01)
        await pour(reader, writer)

    async def read():
        return await asyncio.gather(*map(reader.read_user_async, range(1, 17)))

    with stood_before(client.connection_pool.connection_kwargs["port"], together) as port:
        reader = reader_before(world, port, 60_000)
        assert [state.user_id for state in asyncio.run(read())] == list(range(1, 17))


def test_users_are_read_together_and_one_that_is_refused_takes_no_other_with_it(on_redis):
    world, client = on_redis
    reader = reader_of(world)
    expected = {user: comparable_state(reader.read_user(user)) for user in (1, 2, UNKNOWN["int64"])}
    address = reader._table._hash_of(entity_keys("user_id", [3])[0])
    assert client.delete(address) == 1
    client.set(address, b"no hash")

    async def read():
        found = await reader.read_users_async([1, 3, UNKNOWN["int64"], 2, None])
        return found, await reader.read_users_async([2])

    (one, refused, unknown, two, nobody), (again,) = asyncio.run(read())
    assert isinstance(refused, StorageError) and "WRONGTYPE" in str(refused)
    assert [comparable_state(s) for s in (one, unknown, two, again)] == [
        expected[user] for user in (1, UNKNOWN["int64"], 2, 2)
    ]
    assert set(nobody.status.values()) == {"missing"}
    assert asyncio.run(reader.read_users_async([])) == []
