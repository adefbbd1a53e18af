"""Who is missing when ranks wait for each other in vain.

Every rank tells a store that all share how far it has come. A collective that fails or times out only says that some
connection did; whoever came less far than the others is the one to look for. Half-way to the timeout every rank that
still waits writes its stacks to its log.
"""

import faulthandler
import re
import sys
import time
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from tunestudy.records.host import host_name
from tunestudy.records.progress import Progress, known_here

_NETWORK = re.compile(r"gloo|NCCL|TCPStore|Connection (?:reset|closed)|Broken pipe|[Tt]imed out|timeout")


HOWEVER_LONG = timedelta(days=2)
"""While rank 0 writes: torchrun ends the others should it die."""
TOLD_S = 1.0
"""How often others hear that a rank moves."""
SHORTEST_S = 0.002
"""The first pause between two looks at who is there."""
GRACE_S = 4
"""How long a rank that lost the others waits for them to notice the same."""


class RanksLostError(RuntimeError):
    """Ranks of the job did not come to where the others wait for them."""


@dataclass
class RollCall:
    """This rank's entry, and a look at the others'."""

    rank: int
    size: int
    patience_s: float
    """How long collectives wait."""
    count: int = 0
    waits: int = 0
    """How often `after_rank_0` was called. All ranks call it in the same order."""
    meetings: int = 0
    """How often `meet` was."""
    moves: int = 0
    moved_at: float = 0.0
    """When the others were last told of one: `time.monotonic()`."""

    def __post_init__(self) -> None:
        self._store = dist.distributed_c10d._get_default_store()
        self._store.set(f"tunestudy/host/{self.rank}", host_name())

    def here(self, place: str) -> None:
        """This rank has come to `place`. All ranks come to the same places in the same order."""
        self.count += 1
        self._store.set(f"tunestudy/place/{self.rank}", f"{self.count} {place}")
        faulthandler.dump_traceback_later(self.patience_s / 2, file=sys.stderr)

    def end(self) -> None:
        """Nobody is waited for any more."""
        faulthandler.cancel_dump_traceback_later()

    def after_rank_0(self) -> None:
        """Go on when rank 0 has come here too, however long it writes: no collective waits for a disk."""
        self.waits += 1
        key = f"tunestudy/after/{self.waits}"
        if self.rank == 0:
            self._store.set(key, "1")
        else:
            self._store.wait([key], HOWEVER_LONG)

    def works(self) -> None:
        """This rank moves, in work that does so again and again: told once a second to rank 0, which tells of all."""
        now = time.monotonic()
        if self.rank > 0 and now - self.moved_at > TOLD_S:
            self.moved_at, self.moves = now, self.moves + 1
            self._store.set(f"tunestudy/work/{self.rank}", str(self.moves))

    def rests(self) -> None:
        """What this rank does now may take any time."""
        if self.rank > 0:
            self.moved_at = 0.0
            self._store.set(f"tunestudy/work/{self.rank}", "")

    def meet(self, progress: Progress | None = None) -> None:
        """Go on when all ranks are here, however unlike their work: no collective waits for the slowest answer.

        progress: of rank 0; it moves while those that are missing do, and names them.
        """
        self.meetings += 1
        here = f"tunestudy/meeting/{self.meetings}"
        self._store.set(f"{here}/{self.rank}", "1")
        if self.rank == 0 and progress is not None:
            self._look_on(here, progress)
        self._store.wait([f"{here}/{rank}" for rank in range(self.size)], HOWEVER_LONG)

    def _look_on(self, here: str, progress: Progress) -> None:
        """Until all ranks are here: whether the missing ones move, where their work is such that they must."""
        pause, seen, missing = SHORTEST_S, [""], list(range(1, self.size))
        while missing := [rank for rank in missing if not self._store.check([f"{here}/{rank}"])]:
            time.sleep(pause)
            pause = min(2 * pause, TOLD_S / 2)
            if pause < TOLD_S / 2:
                continue
            told = [f"{rank}: {self._text(f'work/{rank}')}" for rank in missing]
            if not all(self._text(f"work/{rank}") for rank in missing):
                progress.rest()
            elif told != seen:
                progress.move()
            if told != seen:
                progress.tell(waits_for=", ".join(f"rank {rank} on {self._text(f'host/{rank}')}" for rank in missing))
            seen = told
        progress.rest()
        progress.tell(waits_for=None)

    def leave_together(self) -> None:
        """Wait, through the store, until all ranks have done their last collective.

        A rank that closes its connections while another still reads from them may reset them, and the last sum is lost
        on its way. The rank that may serve the store, 0, is the last to go.
        """
        everyone = range(self.size)
        self._store.set(f"tunestudy/done/{self.rank}", "1")
        self._store.wait([f"tunestudy/done/{rank}" for rank in everyone], HOWEVER_LONG)
        self._store.set(f"tunestudy/gone/{self.rank}", "1")
        if self.rank == 0:
            self._store.wait([f"tunestudy/gone/{rank}" for rank in everyone], HOWEVER_LONG)

    def explain(self, error: RuntimeError) -> RuntimeError:
        """The error with the missing ranks' names, where it is one of the network and the store can still be asked."""
        first = (str(error).strip().splitlines() or [""])[0]
        if isinstance(error, RanksLostError) or not (isinstance(error, dist.DistError) or _NETWORK.search(first)):
            return error
        try:
            absent = self._absent()
            places = [self._place_of(rank) for rank in range(self.size)]
        except (RuntimeError, ValueError):
            return RanksLostError(f"a rank was lost, and the store that knows which one with it: {first}")
        furthest, where = max(places)
        absent = absent or [rank for rank, (count, _) in enumerate(places) if count < furthest]
        phase = known_here().get("phase")
        at = f"at {where}" if where else f"in phase {phase}" if phase else "at their start"
        last = {rank: f" (last at {places[rank][1] or 'nothing'})" if where else "" for rank in absent}
        named = [f"rank {rank} on {self._text(f'host/{rank}')}{last[rank]}" for rank in absent]
        missing = ", ".join(named) or "a rank that cannot be told"
        return RanksLostError(f"{missing} did not go on with the others {at}: {first}")

    def _absent(self) -> list[int]:
        """Ranks that notice nothing, because they hang or are gone: all others come to this very line."""
        self._store.set(f"tunestudy/noticed/{self.rank}", "1")
        for _ in range(GRACE_S):
            absent = [rank for rank in range(self.size) if not self._text(f"noticed/{rank}")]
            if not absent:
                break
            time.sleep(1)
        return absent

    def _place_of(self, rank: int) -> tuple[int, str]:
        count, _, place = self._text(f"place/{rank}").partition(" ")
        return int(count or 0), place

    def _text(self, key: str) -> str:
        whole = f"tunestudy/{key}"
        return self._store.get(whole).decode() if self._store.check([whole]) else ""
