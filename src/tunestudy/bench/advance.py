"""How a benchmark goes on, told where the model is asked: a benchmark that stands still is found by it."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunestudy.records.progress import Progress

if TYPE_CHECKING:
    from tunestudy.train.world import World


@dataclass(frozen=True)
class Advance:
    """This rank's. Rank 0 tells in progress.json; of the others it hears through the store that all share."""

    world: "World"
    progress: Progress | None = None
    name: str = ""
    """The benchmark's."""

    def of(self, name: str) -> "Advance":
        """For one benchmark."""
        if self.progress is not None:
            self.progress.tell(doing=name)
        return Advance(self.world, self.progress, name)

    def count(self, answered: int, rows: int) -> None:
        """So many rows of the benchmark are answered by all ranks together, about."""
        if self.progress is not None:
            self.progress.tell(doing=f"{self.name}, {answered} of {rows} rows answered")

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around a batch of questions to the model. What is outside, as a judge's answer, may take any time."""
        roll_call = self.world.roll_call
        with nullcontext() if self.progress is None else self.progress.at_work():
            if roll_call is not None:
                roll_call.works()
            yield
        if roll_call is not None:
            roll_call.rests()

    def move(self) -> None:
        """A token of each answer of the batch is there."""
        if self.progress is not None:
            self.progress.move()
        if self.world.roll_call is not None:
            self.world.roll_call.works()

    def meet(self) -> None:
        """Wait for the other ranks, however long they are at work, and look whether they are."""
        self.world.meet(self.progress)
