"""Two ranks, one of which writes for longer than collectives wait: `torchrun … patient_ranks.py SECONDS`."""

import sys
import time

from tunestudy.train.world import open_world

with open_world() as world:
    if world.rank == 0:
        time.sleep(float(sys.argv[1]))
    world.after_rank_0()
    if world.rank == 0:
        time.sleep(float(sys.argv[1]))
print("both came", flush=True)
