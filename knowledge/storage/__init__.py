"""What lies on the disk: buckets of users, caches, matrices, compressors. Knows nothing of the log."""
