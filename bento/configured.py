"""What the settings say of BentoML's own part: how many processes, and where traces go."""

from __future__ import annotations

from typing import Any

from bento.admission import service_settings
from core.errors import UserError

# Who asks these asks all the time.
_NOT_TRACED = "livez,readyz,metrics"


def configured() -> dict[str, Any]:
    """BentoML's configuration of the service, as far as settings change it."""
    try:
        serving = service_settings().serving
    except UserError:
        return {}  # what packages or tries the code has no settings; a service that starts says what is wrong with its own
    found: dict[str, Any] = {"workers": serving.workers}
    if serving.tracing.url is not None:
        # By BentoML's own exporter to an OpenTelemetry collector.
        otlp = {"protocol": "http", "endpoint": serving.tracing.url}
        sample = {"sample_rate": serving.tracing.sample, "excluded_urls": _NOT_TRACED}
        found["tracing"] = {"exporter_type": "otlp", **sample, "otlp": otlp}
    return found
