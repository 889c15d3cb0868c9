"""A PostgreSQL database of a test's own."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

ADMIN = "postgresql://postgres@localhost:5432/postgres"


@contextmanager
def own_database(driver: str = "psycopg") -> Iterator[str]:
    """The address of a fresh database, for SQLAlchemy with a driver; skips the test where no PostgreSQL is."""
    import psycopg

    admin = os.environ.get("LLM4MSR_TEST_POSTGRES", ADMIN)
    name = f"llm4msr_test_{uuid.uuid4().hex[:8]}"
    try:
        connection = psycopg.connect(admin, autocommit=True, connect_timeout=60)
    except psycopg.OperationalError as error:
        pytest.skip(f"no PostgreSQL at {admin} ({error}); set LLM4MSR_TEST_POSTGRES")
    # Nobody is ever connected to template0; a template that is in use cannot be copied.
    connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    try:
        yield admin.rsplit("/", 1)[0].replace("postgresql://", f"postgresql+{driver}://") + f"/{name}"
    finally:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        connection.close()
