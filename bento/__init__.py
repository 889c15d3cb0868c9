"""The ranking service: bundle and catalogue in memory, user state from the online store, BentoML over HTTP."""

from bento.package import build_bento, has_bento

__all__ = ["build_bento", "has_bento"]
