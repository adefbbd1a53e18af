"""Where the jobs ran: one record per host, from the jobs' env.json."""

from dataclasses import dataclass

from tunestudy.report.facts import Settings, StudyFacts
from tunestudy.report.values import mapping, number


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One host as its latest job recorded it."""

    host: str
    jobs: int
    os: str
    python: str
    cpu: str
    cores: str
    memory_bytes: float | None
    gpus: list[str]
    """`2 × NVIDIA A100-PCIE-40GB (40.0 GiB)`."""
    driver: str
    packages: dict[str, str]
    git: Settings
    env: dict[str, str]


def machines(facts: StudyFacts) -> list[Machine]:
    """Hosts in alphabetical order."""
    by_host: dict[str, list[Settings]] = {}
    for job in facts.jobs:
        if job.environment:
            by_host.setdefault(str(job.environment.get("host") or "unknown host"), []).append(job.environment)
    return [_machine(host, found) for host, found in sorted(by_host.items())]


def hardware_of(environment: Settings) -> str:
    """What computed, without the host's name: its GPUs, or its processor where it has none."""
    gpus = _grouped([mapping(gpu) for gpu in environment.get("gpus") or []])
    return ", ".join(gpus) or str(mapping(environment.get("cpu")).get("model") or "")


def _machine(host: str, found: list[Settings]) -> Machine:
    latest = max(found, key=lambda environment: number(environment.get("time")) or 0.0)
    cpu = mapping(latest.get("cpu"))
    gpus = [mapping(gpu) for gpu in latest.get("gpus") or []]
    return Machine(
        host=host,
        jobs=len(found),
        os=str(latest.get("os") or ""),
        python=str(latest.get("python") or ""),
        cpu=str(cpu.get("model") or ""),
        cores=", ".join(f"{cpu[key]} {words}" for key, words in _CPU if cpu.get(key) is not None),
        memory_bytes=number(latest.get("memory_bytes")) or None,
        gpus=_grouped(gpus),
        driver=str(gpus[0].get("driver") or "") if gpus else "",
        packages={str(name): str(version) for name, version in mapping(latest.get("packages")).items()},
        git=mapping(latest.get("git")),
        env={str(name): str(value) for name, value in mapping(latest.get("env")).items()},
    )


_CPU = (("cores", "cores"), ("threads", "threads"), ("threads_usable", "usable"))


def _grouped(gpus: list[Settings]) -> list[str]:
    names: dict[str, int] = {}
    for gpu in gpus:
        memory = number(gpu.get("memory_bytes"))
        name = f"{gpu.get('name') or 'unknown GPU'}" + (f" ({memory / 2**30:.1f} GiB)" if memory else "")
        names[name] = names.get(name, 0) + 1
    return [f"{count} × {name}" for name, count in names.items()]
