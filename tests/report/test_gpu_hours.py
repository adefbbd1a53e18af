"""GPU-hours of submissions, from the journal and from accounting."""

from types import SimpleNamespace

from tunestudy.launch.slurm.accounting import parsed
from tunestudy.report.gpu_hours import gpu_hours


def life(restart: int, start: float, end: float | None, gpus: int = 2) -> list[dict]:
    began = {"event": "slurm_started", "slurm_id": "7", "restart": restart, "t": start, "gpus": gpus}
    left = {"event": "slurm_left", "slurm_id": "7", "restart": restart, "t": end}
    return [began, left] if end is not None else [began]


def test_every_life_counts_and_one_without_an_end_is_told():
    events = [*life(0, 0.0, 1800.0), *life(1, 2000.0, None), *life(2, 4000.0, 5800.0)]
    number, told = parsed("7|COMPLETED|7200|billing=4,cpu=4,gres/gpu=2,mem=1G,node=1")
    held = gpu_hours(SimpleNamespace(events=events, accounting={number: [told]}))
    assert held.ours_h == 2.0 and held.without_end == 1 and held.told_h == 4.0
    assert held.in_words == "2.00 GPU-hours in 1 submission to SLURM, 1 lives without an end not counted; 4.00 by sacct"
    assert parsed("8_3|CANCELLED by 0|61|cpu=1")[1] == {"state": "CANCELLED", "elapsed_s": 61, "gpus": 0}


def test_a_study_without_slurm_or_without_sacct():
    assert gpu_hours(SimpleNamespace(events=[], accounting={})) is None
    assert "sacct" not in gpu_hours(SimpleNamespace(events=life(0, 0.0, 60.0), accounting={})).in_words
