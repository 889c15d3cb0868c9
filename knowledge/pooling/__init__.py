"""Pooled user vectors: in batches for a run, and of one user for the push path."""
