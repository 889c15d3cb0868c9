"""Data-quality gates: Great Expectations suites per table, quarantine of faulty rows, stops for faulty tables."""

from validation.knowledge import validate_knowledge
from validation.source import validate_source
from validation.training_table import validate_training_table

__all__ = ["validate_knowledge", "validate_source", "validate_training_table"]
