"""Language-model backends behind one small interface, chosen by `knowledge.reasoner`."""

from __future__ import annotations

from core.errors import SettingsError
from core.settings import KnowledgeSettings
from knowledge.reasoners.base import Progress, Reasoner

__all__ = ["Progress", "Reasoner", "make_reasoner"]


def make_reasoner(settings: KnowledgeSettings) -> Reasoner:
    """The reasoner the settings ask for, loaded.

    Raises:
        SettingsError: a setting it needs is missing, or the model cannot be loaded.
    """
    shared = {"max_tokens": settings.max_tokens, "batch_tokens": settings.batch_tokens}
    local = {
        **shared,
        "layer": settings.layer,
        "pooling": settings.pooling,
        "dtype": settings.dtype,
        "device": settings.device,
    }
    if settings.reasoner == "minilm":
        from knowledge.reasoners.minilm import minilm

        reasoner: Reasoner = minilm(**local)
        return reasoner
    if settings.model is None:
        raise SettingsError(f"knowledge.model must name the model of the reasoner {settings.reasoner!r}")
    if settings.reasoner == "transformers":
        from knowledge.reasoners.transformers import TransformersReasoner

        return TransformersReasoner(settings.model, revision=settings.revision, **local)  # type: ignore[arg-type]
    if settings.base_url is None:
        raise SettingsError(
            "knowledge.base_url must name the server of the reasoner 'openai', e.g. http://host:8000/v1"
        )
    from knowledge.reasoners.openai import OpenAIReasoner

    key = settings.api_key.get_secret_value() if settings.api_key is not None else None
    return OpenAIReasoner(settings.model, settings.base_url, api_key=key, revision=settings.revision, **shared)
