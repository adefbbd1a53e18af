"""What crosses the network while ranks train, and the flight recorder's settings."""

import os
import socket
from pathlib import Path

import pytest

from tunestudy.records.layout import JobDir
from tunestudy.records.tables import read_table
from tunestudy.train import network
from tunestudy.train.network import NetworkLook, counters, rates
from tunestudy.train.sampling import Sampler
from tunestudy.train.world import record_collectives


def test_rates_are_differences_over_time() -> None:
    before = {"lo": (1000, 0), "eth0": (0, 0), "gone": (0, 0)}
    after = {"lo": (1_001_000, 500_000), "eth0": (0, 0), "new": (5, 5)}
    assert rates(before, after, 2.0) == [{"interface": "lo", "sent_mbit_per_s": 4.0, "received_mbit_per_s": 2.0}]


def test_ports_of_infiniband_are_counted_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = tmp_path / "mlx5_0" / "ports" / "1" / "counters"
    port.mkdir(parents=True)
    for name, value in (("port_xmit_data", 250), ("port_rcv_data", 1)):
        (port / name).write_text(f"{value}\n")
    monkeypatch.setattr(network, "INFINIBAND", tmp_path)
    assert counters()["mlx5_0:1"] == (1000, 4)


def test_what_is_sent_is_seen(tmp_path: Path) -> None:
    folder = JobDir(tmp_path)
    folder.logs.mkdir()
    server = socket.create_server(("127.0.0.1", 0))
    with Sampler(folder.network_log(3), network.COLUMNS, NetworkLook(), interval_s=0.05):
        sender = socket.create_connection(server.getsockname())
        receiver, _ = server.accept()
        for _ in range(100):
            sender.sendall(bytes(200_000))
            left = 200_000
            while left:
                left -= len(receiver.recv(left))
    rows = read_table(folder.network_log(3))
    assert max(float(row["sent_mbit_per_s"]) for row in rows if row["interface"] == "lo") > 1
    for one in (server, sender, receiver):
        one.close()


def test_the_flight_recorder_writes_beside_the_logs_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {"TORCH_FR_BUFFER_SIZE": "7"})
    record_collectives(tmp_path)
    assert os.environ["TORCH_FR_BUFFER_SIZE"] == "7"
    assert os.environ["TORCH_NCCL_DUMP_ON_TIMEOUT"] == "1"
    assert os.environ["TORCH_FR_DUMP_TEMP_FILE"] == str(tmp_path / "collectives-")
