"""The kinds of knowledge, one file each for items, users and scenarios, and the placebo of shuffled titles."""
