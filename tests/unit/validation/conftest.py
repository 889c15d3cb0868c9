"""Fixtures of the validation room's tests."""

from __future__ import annotations

import pytest
from unit.validation.validation_tables import NOW, Source

from core import Clock, Settings, replay


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def settings() -> Settings:
    data = {"item_dense": ["year"], "user_categorical": ["age"], "batch_rows": 1000}
    return Settings(data=data)


@pytest.fixture
def clock() -> Clock:
    return replay(NOW)
