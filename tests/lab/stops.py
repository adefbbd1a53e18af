"""Stop requests that come, or kill, in a wanted step: a run asks its request once in every step."""

from tunestudy.records.stop import StopRequest


class Crash(Exception):  # noqa: N818 - stands for the end of the process
    """The process is gone."""


class StopAt(StopRequest):
    """Asks to leave in the nth step."""

    def __init__(self, asked: int) -> None:
        super().__init__()
        self.left = asked

    def __bool__(self) -> bool:
        self.left -= 1
        return self.left <= 0


class CrashAt(StopAt):
    """Dies when it is asked for the nth time, that is in the nth step taken."""

    def __bool__(self) -> bool:
        if super().__bool__():
            raise Crash
        return False
