"""The kinds of knowledge: items, scenarios, and a file for each kind of user vector; the placebo of shuffled titles."""
