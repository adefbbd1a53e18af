"""A wish to stop: set by a signal, read by whoever loops."""

import signal
from types import FrameType


class StopRequest:
    """Becomes true when the process is asked to leave; work then stops at the next safe point."""

    def __init__(self) -> None:
        self.wanted = False

    @classmethod
    def on_signals(cls, *signals: signal.Signals) -> "StopRequest":
        """A request that the given signals set instead of ending the process."""
        request = cls()

        def note(_number: int, _frame: FrameType | None) -> None:
            request.wanted = True

        for number in signals:
            signal.signal(number, note)
        return request

    def __bool__(self) -> bool:
        return self.wanted
