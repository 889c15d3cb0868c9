"""What the reasoner reads, and the summaries that people read."""
