"""Evidence: what knowledge is worth to a ranking model, measured on MovieLens-1M under two protocols."""
