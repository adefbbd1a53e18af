"""How jobs lie on a Ray cluster."""

import pytest

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.resources import Resources
from tunestudy.launch.ray.layout import jobs_at_once, wish_for

GPUS = [{"CPU": 64.0, "GPU": 8.0}, {"CPU": 64.0, "GPU": 8.0}, {"CPU": 16.0}]
CPUS = [{"CPU": 4.0}, {"CPU": 2.0}]


@pytest.mark.parametrize(
    ("machines", "settings", "bundles", "strategy", "jobs"),
    [
        (GPUS, {}, [{"CPU": 1, "GPU": 1}], "STRICT_PACK", 16),
        (GPUS, {"ranks": 4}, [{"CPU": 4, "GPU": 4}], "STRICT_PACK", 4),
        (GPUS, {"ranks": 3}, [{"CPU": 3, "GPU": 3}], "STRICT_PACK", 4),  # two GPUs of each machine stay idle
        (GPUS, {"ranks": 16}, [{"CPU": 1, "GPU": 1}] * 16, "PACK", 1),  # no machine holds it
        (GPUS, {"ranks": 4, "ray": {"strategy": "SPREAD"}}, [{"CPU": 1, "GPU": 1}] * 4, "SPREAD", 4),
        (GPUS, {"ranks": 2, "ray": {"strategy": "STRICT_SPREAD"}}, [{"CPU": 1, "GPU": 1}] * 2, "STRICT_SPREAD", 8),
        (GPUS, {"gpus_per_rank": 2}, [{"CPU": 1, "GPU": 2}], "STRICT_PACK", 8),
        (GPUS, {"share_gpus": 2}, [{"CPU": 1, "GPU": 0.5}], "STRICT_PACK", 32),
        (GPUS, {"share_gpus": 3}, [{"CPU": 1, "GPU": 0.3333}], "STRICT_PACK", 48),
        (GPUS, {"gpus": 6, "ranks": 2}, [{"CPU": 2, "GPU": 2}], "STRICT_PACK", 3),
        (GPUS, {"slots": 2}, [{"CPU": 1, "GPU": 1}], "STRICT_PACK", 2),
        (GPUS, {"ray": {"cpus_per_rank": 16}}, [{"CPU": 16, "GPU": 1}], "STRICT_PACK", 8),
        (CPUS, {}, [{"CPU": 1}], "STRICT_PACK", 6),
        (CPUS, {"ranks": 3}, [{"CPU": 3}], "STRICT_PACK", 1),
        (CPUS, {"ranks": 5}, [{"CPU": 1}] * 5, "PACK", 1),
    ],
)
def test_what_a_job_asks_for_and_how_many_fit(machines, settings, bundles, strategy, jobs):
    resources = Resources(executor="ray", **settings)
    wish = wish_for(resources, machines)
    assert [dict(bundle) for bundle in wish.bundles] == [pytest.approx(bundle) for bundle in bundles]
    assert wish.strategy == strategy
    assert jobs_at_once(resources, wish, machines) == jobs


@pytest.mark.parametrize(
    ("machines", "settings", "said"),
    [
        (GPUS, {"ranks": 17}, "needs 17 GPUs and 17 CPUs in 17 parts; the Ray cluster has 3 machines with 16 GPUs"),
        (GPUS, {"gpus_per_rank": 9}, "needs 9 GPUs and 1 CPU on one machine; .* its largest 8 GPUs and 64 CPUs"),
        (GPUS, {"ranks": 4, "ray": {"strategy": "STRICT_SPREAD"}}, r"each on another machine \(4 machines\)"),
        (GPUS, {"ray": {"cpus_per_rank": 65}}, "fewer resources.ray.cpus_per_rank"),
        (GPUS, {"gpus": 1, "ranks": 2}, "the study may hold 1; set resources.gpus=2"),
        ([], {}, "0 machines with 0 CPUs"),
    ],
)
def test_a_cluster_that_cannot_hold_one_job_is_refused(machines, settings, said):
    resources = Resources(executor="ray", **settings)
    with pytest.raises(StudyError, match=said) as refused:
        jobs_at_once(resources, wish_for(resources, machines), machines)
    assert refused.value.exit_code == Exit.PREFLIGHT_REFUSED
