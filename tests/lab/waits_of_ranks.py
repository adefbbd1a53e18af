"""Run a job folder as one rank and list the places in our code that wait for other ranks without the roll call on.

`python -m torch.distributed.run … waits_of_ranks.py JOB_FOLDER OUT`: every rank writes what it saw to OUT/RANK.json.
"""

import functools
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tunestudy import worker
from tunestudy.train import stage
from tunestudy.train.roll_call import RollCall

COLLECTIVES = (
    "all_reduce",
    "all_gather_object",
    "all_gather_into_tensor",
    "reduce_scatter_tensor",
    "irecv",
    "send",
    "barrier",
)


def main(folder: str, out: str) -> int:
    armed: list[bool] = [False]
    training: list[bool] = [False]
    seen: dict[str, dict[str, int]] = {"watched": {}, "unwatched": {}}

    def spy(name: str) -> None:
        real = getattr(dist, name)

        @functools.wraps(real)
        def wrapped(*args: Any, **options: Any) -> Any:
            if training[0]:
                ours = [
                    f for f in traceback.extract_stack() if "tunestudy/" in f.filename and "/lab/" not in f.filename
                ]
                place = f"{name} in {ours[-1].name}"
                counts = seen["watched" if armed[0] else "unwatched"]
                counts[place] = counts.get(place, 0) + 1
            return real(*args, **options)

        setattr(dist, name, wrapped)

    for name in COLLECTIVES:
        spy(name)
    here, end, train = RollCall.here, RollCall.end, stage.train

    def watched_here(self: RollCall, place: str) -> None:
        armed[0] = True
        here(self, place)

    def watched_end(self: RollCall) -> None:
        armed[0] = False
        end(self)

    def watched_train(run: Any) -> bool:
        training[0] = True
        done = train(run)
        training[0] = False
        return done

    RollCall.here, RollCall.end, stage.train = watched_here, watched_end, watched_train  # type: ignore[method-assign]
    code = worker.main(folder)
    Path(out, f"{os.environ['RANK']}.json").write_text(json.dumps(seen))
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
