"""Private names of BentoML are where we look for them, and in one file."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from bento import bentoml_names

ROOM = Path(bentoml_names.__file__).parent


def test_requests_are_counted_by_the_middleware_that_is_replaced():
    from _bentoml_impl.server import app

    counting = getattr(bentoml_names.instruments(), bentoml_names.COUNTING_MIDDLEWARE)
    assert list(inspect.signature(counting.__call__).parameters) == ["self", "scope", "receive", "send"]
    # It is looked up when the service is built, so one that was put in its place before is taken.
    assert f"{bentoml_names.COUNTING_MIDDLEWARE}," in inspect.getsource(app)


def test_what_a_request_raised_is_logged_where_our_filter_sits():
    from _bentoml_impl.server import app

    home = inspect.getmodule(app.log_exception)
    assert home.logger.name == bentoml_names.EXCEPTIONS_LOGGER


def test_no_other_file_names_private_parts():
    private = re.compile(r"\bbentoml\._internal|_bentoml_(impl|sdk)\b")
    others = [path for path in ROOM.rglob("*.py") if path.name != "bentoml_names.py"]
    assert [path.name for path in others if private.search(path.read_text())] == []
