"""What libraries, kernels and clusters say, and what it means."""

import pytest

from tunestudy.config.failures import sign_in


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("oom", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 79.11 GiB"),
        ("oom", "RuntimeError: CUDA error: out of memory"),
        ("oom", "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        ("oom", "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8"),
        ("oom", "OSError: [Errno 12] Cannot allocate memory"),
        ("oom", "ncclUnhandledCudaError: NCCL Call to CUDA function failed. Cuda failure 2 'out of memory'"),
        ("oom", "slurmstepd: error: Detected 1 oom_kill event in StepId=12.0. Some of the step tasks have been OOM"),
        ("oom", "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory."),
        ("hang", "RuntimeError: [/pytorch/gloo/unbound_buffer.cc:81] Timed out waiting 1500ms for recv operation"),
        ("hang", "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=5, OpType=ALLREDUCE)"),
        ("hang", "torch.distributed.DistStoreError: wait timeout after 300000ms, keys: /a"),
        ("preempted", "slurmstepd: error: *** JOB 8 ON n3 CANCELLED AT 2026-01-01T00:00:00 DUE TO PREEMPTION ***"),
        ("preempted", "slurmstepd: error: *** JOB 8 ON n3 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***"),
        (
            "node_lost",
            "slurmstepd: error: *** JOB 8 ON n3 CANCELLED AT 2026 DUE TO NODE FAILURE, SEE SLURMCTLD LOG",
        ),
        ("node_lost", "srun: error: Node failure on n3"),
        ("node_lost", "host h2 failed: the connection ended or never began"),
        ("node_lost", "host h2 failed: its torchrun was killed by signal 9"),
        ("node_lost", "The node with node id: ab12 and address: 10.0.0.2 has been marked dead because the detector"),
        ("disk", "OSError: [Errno 122] Disk quota exceeded: 'x'"),
    ],
)
def test_signs(kind: str, said: str) -> None:
    sign = sign_in(f"before\n{said}\nafter")
    assert sign is not None and (sign.kind, sign.line) == (kind, said)


@pytest.mark.parametrize(
    "said",
    [
        "host h2 failed: exit code 1",
        "RuntimeError: Connection closed by peer [127.0.0.1]:4242",
        "warning: memory is getting short",
        "the learning rate timed the model out",
        "slurmstepd: error: *** JOB 8 ON n3 CANCELLED AT 2026-01-01T00:00:00 ***",
    ],
)
def test_no_signs(said: str) -> None:
    assert sign_in(said) is None


def test_libraries_are_not_asked_where_only_clusters_count() -> None:
    assert sign_in("CUDA out of memory", "cluster") is None
