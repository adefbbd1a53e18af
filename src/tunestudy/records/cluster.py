"""cluster.json: what a scheduler did to an attempt, as it said itself. Written by what hands jobs to the cluster."""

from dataclasses import dataclass

from tunestudy.config.failures import FailureKind
from tunestudy.records.atomic import read_json, write_json
from tunestudy.records.layout import JobDir
from tunestudy.records.redact import redact


@dataclass(frozen=True, kw_only=True)
class ClusterWord:
    """It counts more than what ranks made of a lost connection or of a SIGTERM."""

    attempt: int
    kind: FailureKind
    """`preempted`, `node_lost` or `oom`."""
    message: str


def tell_cluster_word(folder: JobDir, word: ClusterWord) -> None:
    """Leave the cluster's word where the launcher looks for it once the attempt has ended."""
    told = {"attempt": word.attempt, "kind": word.kind, "message": redact(word.message)}
    write_json(folder.cluster_json, told)


def cluster_word(folder: JobDir, attempt: int) -> ClusterWord | None:
    """What was told of this very attempt."""
    try:
        told = read_json(folder.cluster_json)
    except (OSError, ValueError):
        return None
    return ClusterWord(**told) if isinstance(told, dict) and told.get("attempt") == attempt else None
