"""Language-model backends behind one small interface, chosen by `knowledge.reasoner`."""

from __future__ import annotations

from core.errors import SettingsError
from core.settings import KnowledgeSettings
from knowledge.reasoners.base import AnsweringReasoner, Progress, Reasoner

__all__ = ["AnsweringReasoner", "Progress", "Reasoner", "make_generator", "make_reasoner", "per_process"]


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
        "generates": settings.generate is not None,
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
    from knowledge.reasoners.client import Limits
    from knowledge.reasoners.openai import OpenAIReasoner

    key = settings.api_key.get_secret_value() if settings.api_key is not None else None
    return OpenAIReasoner(
        settings.model,
        settings.base_url,
        api_key=key,
        revision=settings.revision,
        limits=Limits(
            concurrency=settings.concurrency,
            retries=settings.retries,
            timeout=settings.timeout.total_seconds(),
            requests_per_minute=settings.requests_per_minute,
            tokens_per_minute=settings.tokens_per_minute,
            token_budget=settings.token_budget,
        ),
        **shared,
    )


def per_process(settings: KnowledgeSettings, processes: int) -> KnowledgeSettings:
    """The settings for one of several processes that share the budget and the rates of a server."""
    shares: dict[str, float] = {
        name: value / processes
        for name in ("requests_per_minute", "tokens_per_minute")
        if (value := getattr(settings, name)) is not None
    }
    if settings.token_budget is not None:
        shares["token_budget"] = max(1, settings.token_budget // processes)
    return settings.model_copy(update=shares)


def make_generator(settings: KnowledgeSettings, reasoner: Reasoner) -> Reasoner:
    """What reads the users' prompts: the reasoner itself, or the same model writing an answer first.

    Raises:
        SettingsError: `knowledge.generate` is set, but the reasoner cannot write.
    """
    if settings.generate is None:
        return reasoner
    asked = settings.generate
    make = getattr(reasoner, "answering", None)
    if make is None:
        raise SettingsError(f"knowledge.generate: the reasoner {settings.reasoner!r} cannot write answers")
    other = {"model": asked.model, "base_url": asked.base_url}
    if settings.reasoner != "openai" and any(other.values()):
        raise SettingsError(
            "knowledge.generate.model and .base_url are for the reasoner 'openai'; others answer themselves"
        )
    generator: Reasoner = make(asked.max_new_tokens, asked.chat, **(other if settings.reasoner == "openai" else {}))
    return generator
