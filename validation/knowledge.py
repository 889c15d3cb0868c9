"""Gate, not written yet."""


def validate_knowledge() -> None:
    """Not written yet."""
    raise NotImplementedError
