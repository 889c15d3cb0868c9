"""Data-quality gates: Great Expectations suites per table, quarantine of faulty rows, stops for faulty tables."""

from validation.drift import compare, profile
from validation.knowledge import validate_knowledge
from validation.online import validate_online
from validation.source import validate_source
from validation.training_table import validate_training_table

__all__ = [
    "compare",
    "profile",
    "validate_knowledge",
    "validate_online",
    "validate_source",
    "validate_training_table",
]
