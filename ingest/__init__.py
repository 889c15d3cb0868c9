"""Raw logs to canonical tables: MovieLens, KuaiSAR, Amazon reviews, or your own parquet or CSV files.

Everything streams: a log larger than memory passes through in batches of `data.batch_rows`.
"""

from ingest.pushed import PushedLog
from ingest.read import open_source, read_source, source_digest
from ingest.source import Source

__all__ = ["PushedLog", "Source", "open_source", "read_source", "source_digest"]
