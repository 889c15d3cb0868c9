"""Traces to an OpenTelemetry collector, by BentoML's own exporter."""

from __future__ import annotations

from typing import Any

from bento.admission import service_settings
from core.errors import UserError

# Who asks these asks all the time.
_NOT_TRACED = "livez,readyz,metrics"


def tracing() -> dict[str, Any]:
    """The part of BentoML's configuration that `serving.tracing` sets; empty where nothing is to be traced."""
    try:
        wanted = service_settings().serving.tracing
    except UserError:
        return {}  # what packages or tries the code has no settings; a service that starts says what is wrong with its own
    if wanted.url is None:
        return {}
    otlp = {"protocol": "http", "endpoint": wanted.url}
    traced = {"exporter_type": "otlp", "sample_rate": wanted.sample, "excluded_urls": _NOT_TRACED, "otlp": otlp}
    return {"tracing": traced}
