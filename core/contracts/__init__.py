"""What one room writes and another reads, as types: kinds of knowledge, statistics, pointers, specs of datasets, bundles and catalogues."""
