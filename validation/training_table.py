"""Gate, not written yet."""


def validate_training_table() -> None:
    """Not written yet."""
    raise NotImplementedError
