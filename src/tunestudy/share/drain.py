"""`python -m tunestudy.share.drain STUDY_DIR`: the one process of a study that uploads, beside its jobs.

Its first line of input names what goes where; it goes on while its input is open, which is as long as the launcher
lives, and afterwards until nothing waits. No job waits for it or knows of it. Killed, it loses nothing: the next one
finds the same files. It gives up when the hub has failed for too long, and leaves the rest for `tunestudy push`.
"""

import os
import random
import select
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.streams import go_on_unheard, may_close
from tunestudy.records.atomic import write_json
from tunestudy.records.layout import StudyDir
from tunestudy.records.lease import Lease, LeaseHeldError
from tunestudy.records.logs import scrub
from tunestudy.records.redact import redact
from tunestudy.share.cards import card_of_study
from tunestudy.share.hub import DOWNLOADED_BYTES, Hub, PassingError, Pushed, RefusedError
from tunestudy.share.work import CardOf, Item, items, push_item, targets_from_text
from tunestudy.study.sharing import Target

POLL_S = 1.0
LONGEST_WAIT_S = 300.0
GIVE_UP_S = 1800.0
"""The hub may fail for so long after the launcher has ended."""
NICENESS = 10


@dataclass(kw_only=True)
class Drain:
    """Pushes what waits, one after the other, with growing pauses while the hub fails."""

    study: StudyDir
    targets: Sequence[Target]
    card_of: CardOf
    hub: Hub
    backoff_s: float = 2.0
    most_failures: int | None = None
    """In a row, after which it gives up; None: never by their number."""
    download: int = DOWNLOADED_BYTES
    say: Callable[[str], None] = print
    pushed: list[tuple[Item, Pushed]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    """What the hub will not take, and why, by item."""
    failures: int = 0
    """In a row."""
    failing_since: float | None = None
    last_error: str = ""

    def left(self, *, unscored: bool) -> list[Item]:
        """What waits and was not refused."""
        return [item for item in items(self.study, self.targets, unscored=unscored) if str(item) not in self.refused]

    def once(self, todo: Sequence[Item], pause: Callable[[float], bool]) -> bool:
        """Push each; False when it gave up, or `pause`, which waits so many seconds, said to leave."""
        for item in todo:
            while True:
                self._note(item, len(todo))
                try:
                    self._push(item)
                    break
                except RefusedError as error:
                    self._refuse(item, error)
                    break
                except PassingError as error:
                    wait_s = self._failed(item, error)
                    self._note(item, len(todo), next_in_s=wait_s)
                    if self._gives_up() or not pause(wait_s):
                        return False
        self._note(None, 0)
        return True

    def _push(self, item: Item) -> None:
        pushed = push_item(self.hub, item, self.card_of, download=self.download)
        self.failures, self.failing_since, self.last_error = 0, None, ""
        if pushed is None:
            return
        self.pushed.append((item, pushed))
        what = f"{pushed.changed} files changed" if pushed.changed else "nothing changed, no commit"
        self.say(f"{item} → {pushed.url} at {pushed.commit[:12]} ({what}; compared)")

    def _refuse(self, item: Item, error: RefusedError) -> None:
        self.refused[str(item)] = redact(str(error))
        self.say(f"{item} is not pushed: {self.refused[str(item)]}")

    def _failed(self, item: Item, error: PassingError) -> float:
        """Seconds to wait: they double, a little at random so that many uploaders do not come back at once."""
        self.failures += 1
        self.failing_since = self.failing_since or time.time()
        self.last_error = redact(str(error))
        doubled = min(LONGEST_WAIT_S, self.backoff_s * 2.0 ** (self.failures - 1))
        wait_s = max(error.wait_s, doubled * random.uniform(0.75, 1.25))
        self.say(f"{item}: {self.last_error}; again in {wait_s:.0f} s")
        return wait_s

    def _gives_up(self) -> bool:
        return self.most_failures is not None and self.failures >= self.most_failures

    def _note(self, item: Item | None, left: int, next_in_s: float | None = None) -> None:
        told = {
            "t": time.time(),
            "pid": os.getpid(),
            "doing": None if item is None else str(item),
            "left": left,
            "failing_since": self.failing_since,
            "error": self.last_error,
            "next_in_s": next_in_s,
            "refused": self.refused,
            "pushed": len(self.pushed),
        }
        write_json(self.study.push_state, told)


class Launcher:
    """Who started this process, seen through its input."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.gone_at: float | None = None

    def wait(self, seconds: float) -> bool:
        """Wait, but not beyond the launcher's end; returns True."""
        if self.gone_at is not None:
            time.sleep(seconds)
            return True
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        if ready and not os.read(self._descriptor, 4096):
            self.gone_at = time.monotonic()
        return True

    def wait_in_trouble(self, seconds: float) -> bool:
        """The same for a hub that fails; False when it has for long enough without anyone waiting."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.wait(left)
        return self.gone_at is None or time.monotonic() - self.gone_at < GIVE_UP_S


def beside(drain: Drain, launcher: Launcher) -> None:
    """Push while the launcher lives and then what is left."""
    while True:
        was_gone = launcher.gone_at is not None
        todo = drain.left(unscored=was_gone)
        if todo and not drain.once(todo, launcher.wait_in_trouble):
            drain.say("given up; what waits is kept: `tunestudy push STUDY` goes on")
            return
        if not todo and was_gone:
            return
        launcher.wait(POLL_S)


def main(root: str, backoff_s: float = 2.0) -> int:
    """Exit code of `config.errors.Exit`."""
    os.nice(NICENESS)
    study = StudyDir(Path(root))
    asked = _first_line(sys.stdin.fileno())
    if not asked.endswith("\n"):
        _say("the run ended before it said what to push; what waits is kept: `tunestudy push STUDY` goes on")
        return int(Exit.INTERRUPTED)
    targets = targets_from_text(asked)
    try:
        with Lease.acquire(study.push_lease, wait_s=GIVE_UP_S):  # one of an earlier run may be at its last tries
            card_of = card_of_study(study)
            drain = Drain(study=study, targets=targets, card_of=card_of, hub=Hub(), backoff_s=backoff_s, say=_say)
            beside(drain, Launcher(sys.stdin.fileno()))
    except LeaseHeldError as held:
        _say(f"{held.holder} is pushing already")
    except StudyError as error:
        _say(str(error))
        return int(error.exit_code)
    except OSError as error:
        _say(f"ended: {error}; what waits is kept")
        return int(Exit.PREFLIGHT_REFUSED)
    finally:
        scrub(study.push_log)
    return int(Exit.DONE)


def _first_line(descriptor: int) -> str:
    """Read without a buffer, which would hide from `select` what it holds. Without its end where the launcher died."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(descriptor, 1)):
        line += byte
    return line.decode(errors="replace")


def _say(text: str) -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), redact(text), flush=True)


if __name__ == "__main__":
    may_close()
    go_on_unheard()
    sys.exit(main(sys.argv[1], *map(float, sys.argv[2:])))
