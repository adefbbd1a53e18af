"""The network between ranks: measured for real on two of them, read from NCCL's log, turned into seconds of a step."""

import json
from pathlib import Path

import pytest

from tunestudy.config.errors import StudyError
from tunestudy.launch.requests.netcheck import (
    Network,
    check_network,
    prediction_lines,
    seconds_of_step,
    transport_lines,
)
from tunestudy.records.layout import StudyDir
from tunestudy.records.lease import Lease
from tunestudy.study.load import LoadedStudy, load_study

pytestmark = pytest.mark.alone

STUDY = """\
study: net
seeds: [1]
resources: {ranks: RANKS}
model: {architecture: qwen3, tokenizer: {type: characters, alphabet: "01"}}
datasets: {digits: {type: digits}}
variants: {untrained: {stages: []}}
"""
FOUND = {
    "backend": "nccl",
    "hosts": ["a", "a", "b", "b"],
    "interfaces": [["mlx5_0"], ["mlx5_0"], ["mlx5_0"], ["mlx5_0"]],
    "collectives": [
        {"op": "all_gather", "bytes": 8, "seconds": 1e-5, "bus_bytes_per_s": 1e6},
        {"op": "all_gather", "bytes": 1 << 27, "seconds": 0.1, "bus_bytes_per_s": 8e9},
    ],
    "pairs": [
        {"ranks": [low, high], "latency_s": 1e-5, "bytes_per_s": 1e11 if (low < 2) == (high < 2) else 8e9}
        for low in range(4)
        for high in range(low + 1, 4)
    ],
}


def load(tmp_path: Path, ranks: int) -> LoadedStudy:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("RANKS", str(ranks)))
    return load_study(path)


@pytest.mark.slow
def test_two_ranks_are_measured(tmp_path: Path) -> None:
    told = check_network(load(tmp_path, 2), tmp_path / "results")
    found = json.loads((tmp_path / "results/net/netcheck/netcheck.json").read_text())
    assert [(row["op"], row["bytes"]) for row in found["collectives"]][:2] == [("all_reduce", 8), ("all_gather", 8)]
    for row in found["collectives"]:
        factor = 1.0 if row["op"] == "all_reduce" else 0.5
        assert row["bus_bytes_per_s"] == pytest.approx(row["bytes"] * factor / row["seconds"])
    assert len(found["pairs"]) == 1 and 0 < found["pairs"][0]["latency_s"] < 0.1
    text = "\n".join(told)
    assert told[0].startswith("2 ranks on 1 hosts, gloo") and "transport: gloo over TCP" in text
    assert "134,217,728" in text and "Gbit/s" in text


def test_two_do_not_measure_each_other(tmp_path: Path) -> None:
    study = StudyDir(tmp_path / "results" / "net")
    (study.netcheck.root / "netcheck.json").parent.mkdir(parents=True)
    (study.netcheck.root / "netcheck.json").write_text("{}")
    with Lease.acquire(study.leases / "netcheck"), pytest.raises(StudyError, match="does the same just now; wait"):
        check_network(load(tmp_path, 2), tmp_path / "results")
    assert (study.netcheck.root / "netcheck.json").exists()


def test_one_rank_has_nobody(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="one rank has nobody to talk to"):
        check_network(load(tmp_path, 1), tmp_path / "results")


@pytest.mark.parametrize(
    ("log", "said", "advice"),
    [
        ("h1:1:1 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [RO]; OOB eth0", "transport: IB", False),
        ("h1:1:1 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/RoCE [RO]; OOB eth0", "transport: RoCE", False),
        ("h1:1:1 [0] NCCL INFO NET/Socket : Using [0]eth0:10.0.0.1<0>", "transport: socket", True),
        ("", "transport: within the host only", False),
    ],
)
def test_transport_is_read_from_nccls_own_log(log: str, said: str, advice: bool) -> None:
    lines = list(transport_lines(FOUND, log))
    assert lines[0].startswith(said)
    assert any("NCCL_IB_HCA" in line for line in lines) == advice


def test_a_step_of_seed_004() -> None:
    """216 GB of frozen weights over two nodes of eight and 63 Gbit/s: slicing within nodes is what to do."""
    network = Network(hosts=2, ranks_per_host=8, bus=63e9 / 8, within=3e11, between=63e9 / 8)
    seconds = seconds_of_step(network, frozen=216e9, learns=0.13e9, micro_batches=1)
    assert seconds["fsdp2"] == pytest.approx(2 * 216.2e9 * 15 / 16 / 7.875e9, rel=0.01)
    assert seconds["fsdp2: {within_node: true}"] < seconds["fsdp2"] / 30
    assert seconds["fsdp2: {shard: gradients}"] < 0.1


def test_predictions_are_of_the_largest_job_that_ran(tmp_path: Path) -> None:
    loaded, study = load(tmp_path, 4), StudyDir(tmp_path / "results" / "net")
    assert "once a job has run" in next(iter(prediction_lines(FOUND, loaded, study)))
    for name, total in (("a-1", 1000), ("b-2", 2_000_000_000)):
        job = study.root / "jobs" / name
        job.mkdir(parents=True)
        result = {"total_params": total, "trainable_params": total // 100, "accumulation": 2}
        (job / "result.json").write_text(json.dumps(result))
    lines = list(prediction_lines(FOUND, loaded, study))
    assert "2 micro-batches, 7.92 GB frozen and 0.08 GB that learn" in lines[0]
    assert [line.split("  ")[1] for line in lines[1:]] == [
        "ddp",
        "fsdp2",
        "fsdp2: {shard: gradients}",
        "deepspeed, stage 1",
        "deepspeed, stage 2",
        "deepspeed, stage 3",
        "fsdp2: {within_node: true}",
    ]
