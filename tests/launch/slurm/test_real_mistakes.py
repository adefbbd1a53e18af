"""What people get wrong, in front of a real SLURM; the jobs' workers are fake, all else is as it is."""

from pathlib import Path

import pytest
from shell import succeed
from slurm_study import OnSlurm

from tunestudy.config.errors import Exit, StudyError

NODES = {"nodes": 1}
pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.usefixtures("this_cluster")]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"partition": "shrot"}, "there is no partition shrot; did you mean short?"),
        ({"partition": "short", "time": "2h"}, "2 h is above the 0.5 h of partition short"),
        ({"nodes": 3, "mode": "allocation"}, "3 nodes are more than the 1 of partition lab"),
        ({"gpus_per_node": 2}, "partition lab has no GPUs"),
        ({"mem": "9000G"}, "Memory specification can not be satisfied"),
        ({"constraint": "h100"}, "Invalid feature specification"),
        ({"exclude": "node7"}, "Invalid node name specified"),
    ],
)
def test_refused_before_anything_waits_in_vain(on_slurm, settings, words):
    study = on_slurm(**settings)
    with pytest.raises(StudyError) as caught:
        study.run()
    assert words in str(caught.value), str(caught.value)
    assert caught.value.exit_code == Exit.PREFLIGHT_REFUSED
    assert succeed(["squeue", "-h", "-o", "%i"]) == "" and not study.events("slurm_started")


def test_one_folder_by_two_paths_trains_once(on_slurm, tmp_path: Path, until):
    """A colleague sees the share under another path; both type `run`."""
    study = on_slurm("here")
    study.behave(base={"steps": 30, "step_s": 0.1})
    (elsewhere := tmp_path / "mnt").mkdir()
    succeed(["mount", "--bind", study.folder, elsewhere])
    try:
        assert study.run(detach=True)[0] == Exit.DONE
        until(lambda: study.step("base") > 1, "steps")
        other = seen_from(elsewhere, study)
        code, output = other.run()
    finally:
        succeed(["umount", "-l", elsewhere])
    assert code == Exit.DONE, output
    assert len(study.events("slurm_submitted")) == 2
    assert len(study.starts("base")) == len(study.starts("adapt")) == 1
    assert study.steps("base") == list(range(1, 31))


def seen_from(elsewhere: Path, study: OnSlurm) -> OnSlurm:
    """The same study, typed in the other folder."""
    other = object.__new__(OnSlurm)
    other.folder, other.file = elsewhere, elsewhere / study.file.name
    other.dir = type(study.dir)(elsewhere / "results" / study.dir.root.name)
    return other
