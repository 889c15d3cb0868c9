"""One file per table: the rules it must keep, each with its reason."""
