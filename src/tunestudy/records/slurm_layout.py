"""Where everything lies that is handed to SLURM: `results/<study>/slurm/`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SlurmDir:
    """`slurm/`: per submission, named by its key (a job's id, `array-…` or `allocation`), a few files."""

    root: Path

    def script(self, key: str) -> Path:
        """What sbatch gets; readable, made again by every `run`."""
        return self.root / f"{key}.sbatch"

    def jobs(self, key: str) -> Path:
        """Ids of its jobs, a line each; an array's element takes the line of its number."""
        return self.root / f"{key}.jobs"

    def submission(self, key: str) -> Path:
        """Under which number SLURM has it, who sent it and from where."""
        return self.root / "submissions" / f"{key}.json"

    @property
    def submissions(self) -> Path:
        return self.root / "submissions"

    @property
    def mark(self) -> Path:
        """What submissions of this folder carry as their comment, and of which folder it is."""
        return self.root / "mark.json"

    @property
    def outputs(self) -> Path:
        """What submissions print: `<key>.<SLURM's number>.out`."""
        return self.root / "logs"

    @property
    def accounting(self) -> Path:
        """What `sacct` tells of submissions, where a cluster has one."""
        return self.root / "accounting.json"

    @property
    def stopped(self) -> Path:
        """There from a `stop` until the next `run`: nothing more is submitted meanwhile."""
        return self.root / "stopped"
