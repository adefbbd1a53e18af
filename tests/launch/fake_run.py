"""`tunestudy run` with the fake worker: fake_run.py STUDY.yaml RESULTS [--detach]."""

import sys
from pathlib import Path

from tunestudy.launch.run import run_study
from tunestudy.study.load import load_study

FAKE = Path(__file__).with_name("fake_worker.py")

if __name__ == "__main__":
    sys.exit(
        run_study(
            load_study(Path(sys.argv[1])),
            Path(sys.argv[2]),
            detach="--detach" in sys.argv,
            command=lambda folder, _ranks: [sys.executable, str(FAKE), str(folder.root)],
        )
    )
