"""How a check says that something is wrong, or that there is nothing to check."""


class Trouble(Exception):  # noqa: N818 - what it is called in this trade
    """Something is not as it must be; ``remedy`` says what to do."""

    def __init__(self, text: str, remedy: str) -> None:
        super().__init__(text)
        self.remedy = remedy


class NothingToCheck(Exception):  # noqa: N818 - no error at all
    """The configuration does without it."""
