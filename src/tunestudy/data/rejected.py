"""Why a record is left out."""


class Rejected(Exception):  # noqa: N818 - not an error of the program: a record that is left out
    """A record that cannot be used. `reason` is counted, `detail` helps to find it."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}" if detail else reason)
