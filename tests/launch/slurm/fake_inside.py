"""`python -m tunestudy.launch.slurm.inside` with the fake worker: fake_inside.py RESULTS/STUDY KEY."""

import os
import sys
from pathlib import Path

from tunestudy.launch.slurm.inside import main

FAKES = str(Path(__file__).resolve().parents[1])

if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.pathsep.join([FAKES, *filter(None, [os.environ.get("PYTHONPATH")])])
    sys.exit(main(sys.argv[1], sys.argv[2], module="fake_worker"))
