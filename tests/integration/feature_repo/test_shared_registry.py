"""One SQL registry for all stores of a process: readers come and go, threads and connections do not grow."""

import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest
from conftest import overlay_world
from postgres_database import ADMIN

import feature_repo
from core.errors import StorageError
from feature_repo import OnlineReader
from feature_repo.overlay import open_store

pytestmark = pytest.mark.integration
REPOSITORY = Path(__file__).parents[3]
VERSIONS = {"pooled": "ab12", "scenario": "ab12"}


@pytest.fixture
def production(request, tmp_path):
    with overlay_world("production", tmp_path, request, 2) as world:
        yield world


def reader_of(world):
    return OnlineReader(world.settings, world.clock, VERSIONS)


def ask(query, *values):
    with psycopg.connect(os.environ.get("LLM4MSR_TEST_POSTGRES", ADMIN), autocommit=True) as connection:
        found = connection.execute(query, values)
        return found.fetchall() if found.description else None


def database_of(world):
    return world.settings.registry.url.rsplit("/", 1)[1]


def connections(world):
    # Autovacuum connects when it likes.
    ours = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'"
    return ask(ours, database_of(world))[0][0]


def allow(world, allowed):
    name = database_of(world)
    ask(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {str(allowed).lower()}")
    if not allowed:
        ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", name)


def test_readers_and_writers_share_threads_and_connections(production):
    reader_of(production)
    before = connections(production), threading.active_count()
    for _ in range(5):
        reader_of(production)
        open_store(production.settings)
    # What refreshes the registry in the background may come or go; five readers would bring five.
    assert connections(production) < before[0] + 5
    assert threading.active_count() < before[1] + 5


def test_a_new_reader_sees_what_another_process_applied(production):
    reader_of(production)
    script = (
        "import pickle, sys; import feature_repo.materialization as m; "
        "settings, paths = pickle.load(sys.stdin.buffer); m.apply(settings, **paths)"
    )
    given = pickle.dumps((production.settings, production.paths))
    subprocess.run([sys.executable, "-c", script], input=given, check=True, cwd=REPOSITORY)
    # A view that the registry did not know would be left out.
    assert reader_of(production)._find("user_stats") is not None


def test_a_running_process_makes_readers_while_the_database_is_away(production):
    feature_repo.materialize(production.settings, production.clock, **production.paths)
    expected = reader_of(production).read_user(2).status
    allow(production, False)
    try:
        assert reader_of(production).read_user(2).status == expected
        with pytest.raises(StorageError, match="registry"):
            feature_repo.materialize(production.settings, production.clock, **production.paths)
    finally:
        allow(production, True)
    assert reader_of(production).read_user(2).status == expected


def test_a_first_reader_without_the_database_is_a_typed_error(production):
    url = "postgresql+psycopg://nobody@127.0.0.1:9/none"
    registry = production.settings.registry.model_copy(update={"url": url})
    with pytest.raises(StorageError, match="registry"):
        OnlineReader(production.with_settings(registry=registry), production.clock, VERSIONS)
