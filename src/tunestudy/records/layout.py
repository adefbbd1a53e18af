"""Where everything lies under `results/<study>/`. A folder can be copied, tarred and read elsewhere."""

from dataclasses import dataclass
from pathlib import Path

from tunestudy.records.slurm_layout import SlurmDir

RESULT, FAILURE, PROGRESS, LEASE, CLAIM = "result.json", "failure.json", "progress.json", "lease", "claim"
"""What tells a job's state, by name: for readers that list a folder instead of asking for each."""

EVAL = "eval"

REQUEST = "request.json"
"""What a worker is asked, where a command asks it one thing in a folder of its own."""
PROBED, FORESEEN, TRIED, SHOWN = "probe.json", "foresee.json", "try.json", "shown.json"
NETCHECK, LR_FIND, LR_TABLE, LR_PICTURE = "netcheck.json", "lr_find.json", "lr_find.csv", "lr_find.svg"
"""What such a folder holds afterwards: answers, and what is made of them."""
LAUNCHER_JOBS = "jobs.txt"
"""Beside the lease of a process that carries the plan out: ids of the jobs that it is to see done, one per line."""


def score_name(benchmark: str) -> str:
    """Of a benchmark's score, in `eval/`."""
    return f"{benchmark}.json"


def part_name(benchmark: str, rank: int | str) -> str:
    """Of what a rank has answered of it so far, in `eval/`."""
    return f"{benchmark}.part-{rank}.jsonl"


@dataclass(frozen=True)
class StudyDir:
    """`results/<study>/`."""

    root: Path

    @property
    def study_yaml(self) -> Path:
        return self.root / "study.yaml"

    @property
    def resolved_yaml(self) -> Path:
        return self.root / "resolved.yaml"

    @property
    def plan_json(self) -> Path:
        return self.root / "plan.json"

    @property
    def lock(self) -> Path:
        """`study.lock`: a copy of the lock beside the study file (`records/locked.py`), for who has results alone."""
        return self.root / "study.lock"

    @property
    def experiment_md(self) -> Path:
        return self.root / "EXPERIMENT.md"

    @property
    def events(self) -> Path:
        return self.root / "events"

    @property
    def leases(self) -> Path:
        return self.root / "leases"

    @property
    def launchers(self) -> Path:
        """One lease per process that carries the plan out, for `stop` and `watch`."""
        return self.leases / "launchers"

    @property
    def slurm(self) -> SlurmDir:
        """What is handed to SLURM, with `executor: slurm`."""
        return SlurmDir(self.root / "slurm")

    @property
    def run_log(self) -> Path:
        """Output of a detached `run`."""
        return self.root / "run.log"

    @property
    def cache(self) -> Path:
        """What can be made again: tokenised data, fetched images, hashes, timings."""
        return self.root / "cache"

    @property
    def hashes(self) -> Path:
        """Hashes of large files that the study reads, by path, size and time."""
        return self.cache / "hashes.json"

    @property
    def data_cache(self) -> Path:
        """Tokenised data sets, one folder per fingerprint, shared by all jobs of the study."""
        return self.cache / "data"

    @property
    def model_cache(self) -> Path:
        """Bases that exist nowhere else, random or merged weights, one folder each."""
        return self.cache / "models"

    @property
    def column_cache(self) -> Path:
        """Values of a column that a curriculum goes by: `<data 16>-<column 16>/`, by sample id."""
        return self.cache / "columns"

    @property
    def score_cache(self) -> Path:
        """What frozen models make of samples, for curricula: `<scorer 16>-<data 16>/`, by sample id."""
        return self.cache / "scores"

    @property
    def images(self) -> Path:
        """Images by their SHA-256, as they came: `<first 2 digits>/<all 64>`."""
        return self.cache / "images"

    @property
    def fetch(self) -> Path:
        """What became of every image that a data set names by URL: a folder per data set (`records/fetched.py`)."""
        return self.cache / "fetch"

    def probe(self, key: str) -> Path:
        """Timed steps of one stage on one machine; its working folder, of the same name without ending, is a `JobDir`
        as deep as those of jobs, so that it finds data, parents and the study's folder as they do."""
        return self.cache / f"probe-{key}.json"

    def foreseen(self, key: str) -> Path:
        """Memory of a stage by term, as counted before anything ran; the key names all that decides it."""
        return self.cache / f"foresee-{key}.json"

    def tuned(self, key: str) -> Path:
        """What `tune-batch` has measured of one stage on one machine; its working folder is like a probe's."""
        return self.cache / f"tune-{key}.json"

    @property
    def netcheck(self) -> "JobDir":
        """What `netcheck` measured last: its `NETCHECK`, and what the ranks printed."""
        return JobDir(self.root / "netcheck")

    def lr_find(self, name: str) -> "JobDir":
        """What `lr-find` swept last of one stage."""
        return JobDir(self.root / "lr-find" / name)

    @property
    def estimates(self) -> Path:
        """What each job was expected to take before it began."""
        return self.root / "estimates.json"

    @property
    def packing(self) -> Path:
        """When and on which slot each job was to run, as planned last before it began."""
        return self.root / "packing.json"

    def tracker_log(self, tracker: str) -> Path:
        """What a tracker printed while it was told."""
        return self.root / "trackers" / f"{tracker}.log"

    @property
    def push_state(self) -> Path:
        """What the process that pushes to the hub is at; replaced, never appended."""
        return self.root / "push.json"

    @property
    def push_log(self) -> Path:
        return self.root / "push.log"

    @property
    def push_lease(self) -> Path:
        """Held by the one process that pushes."""
        return self.leases / "push"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def trials(self) -> Path:
        return self.root / "trials"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def report_page(self) -> Path:
        return self.report / "index.html"

    @property
    def report_table(self) -> Path:
        """Every figure of the report's table, a row each."""
        return self.report / "results.csv"

    def job(self, job_id: str) -> "JobDir":
        return JobDir(self.jobs / job_id)

    def trial(self, variant: str, seed: int, stage: str) -> Path:
        """A link into `jobs/`: `trials/<variant>/seed_<s>/<stage>`."""
        return self.trials / variant / f"seed_{seed}" / stage


@dataclass(frozen=True)
class JobDir:
    """`jobs/<stage>-<fingerprint12>/`."""

    root: Path

    @property
    def study(self) -> StudyDir:
        return StudyDir(self.root.parent.parent)

    @property
    def job_json(self) -> Path:
        return self.root / "job.json"

    @property
    def env_json(self) -> Path:
        return self.root / "env.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def launch_log(self) -> Path:
        """What torchrun and the ranks printed that did not go to a log of their own."""
        return self.logs / "launch.log"

    @property
    def lease(self) -> Path:
        """Held by rank 0 while the job works."""
        return self.root / LEASE

    @property
    def claim(self) -> Path:
        """Held by the launcher that started the job, from before there is a process to hold `lease`."""
        return self.root / CLAIM

    def network_log(self, rank: int) -> Path:
        """What crossed a host's network, by the rank that sampled it."""
        return self.logs / f"network-{rank}.csv"

    def rank_log(self, rank: int) -> Path:
        return self.logs / f"rank-{rank}.log"

    def pace_log(self, rank: int) -> Path:
        """Seconds that a rank works on a step by itself; with several ranks only."""
        return self.logs / f"pace-{rank}.csv"

    def rank_progress(self, rank: int) -> Path:
        """The latest sign of life of a rank other than 0; there only while that rank tells of it."""
        return self.logs / f"progress-{rank}.json"

    @property
    def progress_json(self) -> Path:
        """The latest sign of life; replaced, never appended."""
        return self.root / PROGRESS

    @property
    def failure_json(self) -> Path:
        """Why the last attempt ended badly; removed when an attempt succeeds."""
        return self.root / FAILURE

    @property
    def adjusted_json(self) -> Path:
        """Smaller batches than the study's, since the job ran out of memory (`records/adjusted.py`)."""
        return self.root / "adjusted.json"

    @property
    def result_json(self) -> Path:
        """Written when the stage's result is published: training counts as done if and only if it is here."""
        return self.root / RESULT

    @property
    def loss_log(self) -> Path:
        return self.root / "loss_log.csv"

    @property
    def eval_samples(self) -> Path:
        """Loss of each evaluated row, by step, where it was asked for."""
        return self.root / "eval_samples.csv"

    @property
    def eval_log(self) -> Path:
        """Every evaluation during training: epoch,step,eval_loss,perplexity,tokens + one column per source."""
        return self.root / "eval_log.csv"

    @property
    def gradient_log(self) -> Path:
        return self.root / "gradient_log.csv"

    @property
    def expert_log(self) -> Path:
        """Busiest expert's load over the mean, by layer of a mixture of experts."""
        return self.root / "expert_log.csv"

    @property
    def mole_log(self) -> Path:
        """Of a mixture of LoRA experts: epoch,step,module,entropy,balance + one column per expert, its share of usage;
        one row for every gated block and one for all, `overall`."""
        return self.root / "mole_log.csv"

    @property
    def sparsity_log(self) -> Path:
        """Of adapters with gates: epoch,step,overall + one column per gated module, each the share of gates at zero."""
        return self.root / "sparsity_log.csv"

    @property
    def gpu_log(self) -> Path:
        return self.root / "gpu.csv"

    @property
    def training_history(self) -> Path:
        return self.root / "training_history.json"

    @property
    def training_log(self) -> Path:
        """The same as training_history.json, under the name that other scripts read."""
        return self.root / "training_log.json"

    @property
    def trainer_state(self) -> Path:
        return self.root / "trainer_state.json"

    @property
    def data_report(self) -> Path:
        """Per source: records read, rejected by reason, realised samples and target tokens, overlap with evaluation."""
        return self.root / "data.json"

    @property
    def experts(self) -> Path:
        """Of a mixture of LoRA experts: where each comes from, and how much of a difference its factors hold."""
        return self.root / "experts.json"

    @property
    def merge_report(self) -> Path:
        """Of a job that merges: how far its models are from the base and how they lie to each other, by role."""
        return self.root / "merge_report.json"

    @property
    def trackers(self) -> Path:
        """What trackers keep of the job on disk."""
        return self.root / "trackers"

    def tracker_state(self, tracker: str) -> Path:
        """How far a tracker was told: its run, the last step, whether that is all."""
        return self.trackers / f"{tracker}.json"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.root / "tensorboard"

    @property
    def last(self) -> Path:
        return self.root / "last"

    @property
    def best(self) -> Path:
        return self.root / "best"

    @property
    def waiting_pushes(self) -> Path:
        """Checkpoints that wait for their upload, as links to their files; written by the job (`records/pushes.py`)."""
        return self.root / "push" / "waiting"

    @property
    def current_push(self) -> Path:
        """Those that an uploader has taken: they are not superseded any more."""
        return self.root / "push" / "uploading"

    @property
    def superseded_pushes(self) -> Path:
        """Steps whose checkpoints made room for newer ones while they waited."""
        return self.root / "push" / "superseded.json"

    @property
    def pushed_json(self) -> Path:
        """What is on the hub: repository, commit, files and how they were compared, by `model` or a checkpoint."""
        return self.root / "pushed.json"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def merged(self) -> Path:
        """With `save_merged`: the adapter folded into its base."""
        return self.root / "merged"

    @property
    def eval(self) -> Path:
        return self.root / EVAL

    def checkpoint(self, step: int) -> Path:
        return self.root / f"checkpoint-{step}"

    def at_checkpoint(self, name: str) -> "CheckpointScores":
        """The same folder, whose scores are those of the checkpoint of that name."""
        return CheckpointScores(self.root, name)

    def eval_json(self, benchmark: str) -> Path:
        return self.eval / score_name(benchmark)

    def predictions(self, benchmark: str) -> Path:
        return self.eval / f"{benchmark}.predictions.jsonl"

    def overlap(self, benchmark: str) -> Path:
        """Which rows of a benchmark the job's training data hold as well."""
        return self.eval / f"{benchmark}.overlap.json"

    def thumbnails(self, benchmark: str) -> Path:
        """Small pictures of the rows that the gallery shows, named by their image's hash (`records/picks.py`)."""
        return self.eval / f"{benchmark}.images"


@dataclass(frozen=True)
class CheckpointScores(JobDir):
    """A job's folder as one of its checkpoints is scored: `eval/checkpoint-500/<benchmark>.json`."""

    checkpoint_name: str

    @property
    def eval(self) -> Path:
        return self.root / EVAL / self.checkpoint_name
