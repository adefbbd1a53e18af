"""The streaming merge: the same bytes whatever the threads and files, refusals, and nothing left of what failed."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunestudy.config.errors import StudyError
from tunestudy.config.merge import TASK_VECTORS, MergeStage
from tunestudy.merge import one_stream, parts
from tunestudy.merge.source import FolderSource, Inputs
from tunestudy.merge.stream import StreamFacts, merge_into
from tunestudy.merge.write import ModelWriter
from tunestudy.models.tensorfiles import INDEX, TensorFiles

Tensors = dict[str, Tensor]
METHODS = ["linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "slerp"]
SPARSE = {"ties", "dare_linear", "dare_ties"}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small tensors have many."""
    monkeypatch.setattr("tunestudy.merge.stream.PART", 64)


def model(seed: int, dtype: torch.dtype = torch.bfloat16) -> Tensors:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    return {
        "lm_head.weight": drawn(37, 16),
        "model.embed_tokens.weight": drawn(37, 16),
        "model.norm.weight": drawn(13),
        "scale": drawn(),
        "empty": drawn(0, 4),
        "positions": torch.arange(5),
        "mask": torch.tensor([True, False, True]),
    }


def save(folder: Path, tensors: Tensors, files: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if files == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    weight_map = {}
    for number in range(files):
        name = f"model-{number + 1:05}-of-{files:05}.safetensors"
        shard = dict(list(tensors.items())[number::files])
        save_file(shard, folder / name)
        weight_map |= dict.fromkeys(shard, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def inputs(root: Path, models: dict[str, Tensors], base: Tensors | None = None, files: int = 1) -> Inputs:
    folders = {name: save(root / name, tensors, files) for name, tensors in models.items()}
    based = None if base is None else FolderSource(save(root / "base", base))
    sources = {name: FolderSource(folder) for name, folder in folders.items()}
    return Inputs(models=sources, base=based, carried_from=root)  # type: ignore[arg-type]


def stage(method: str, base: bool = True, **others: Any) -> MergeStage:
    one = {"density": 0.3} if method in SPARSE else {}
    models = {"en": {"path": "en", "weight": 0.6, **one}, "ko": {"path": "ko", "weight": 0.4, **one}}
    return MergeStage(method=method, models=models, base={"path": "b"} if base else None, **others)  # type: ignore[arg-type]


def merge(
    prepared: Path, given: Inputs, settings: MergeStage, *, threads: int = 2, seed: int = 1, stop: Any = lambda: False
) -> StreamFacts | None:
    return merge_into(prepared, given, settings, seed=seed, threads=threads, stop=stop)


def read(folder: Path) -> Tensors:
    found: Tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
        found |= load_file(file)
    return found


def digest(folder: Path) -> dict[str, str]:
    return {n: hashlib.sha256(t.flatten().view(torch.uint8).numpy()).hexdigest() for n, t in read(folder).items()}


@pytest.mark.parametrize("method", METHODS)
def test_threads_and_files_do_not_change_a_byte(method: str, tmp_path: Path) -> None:
    models = {"en": model(1), "ko": model(2)}
    one_file, many = (inputs(tmp_path / str(files), models, model(0), files) for files in (1, 3))
    ways = [(one_file, 1, "5GB"), (one_file, 2, "1KB"), (many, 5, "2KB"), (one_file, 5, "1B")]
    found = []
    for number, (given, threads, size) in enumerate(ways):
        facts = merge(tmp_path / f"out{number}", given, stage(method, max_shard_size=size), threads=threads)
        assert facts is not None and facts.tensors == 7
        found.append(digest(tmp_path / f"out{number}"))
    assert all(one == found[0] for one in found)
    assert len(list((tmp_path / "out1").glob("*.safetensors"))) > 1


def test_values_of_every_kind(tmp_path: Path) -> None:
    en, ko = model(1), model(2)
    facts = merge(tmp_path / "out", inputs(tmp_path, {"en": en, "ko": ko}), stage("linear", base=False))
    found = read(tmp_path / "out")
    assert list(found) and set(found) == set(en)
    for name, values in en.items():
        assert found[name].dtype == values.dtype and found[name].shape == values.shape
        if values.is_floating_point():
            expected = (0.6 * values.double() + 0.4 * ko[name].double()).to(torch.bfloat16)
            torch.testing.assert_close(found[name], expected)
        else:
            assert torch.equal(found[name], values)
    assert facts is not None and facts.parameters == sum(values.numel() for values in en.values())
    assert facts.written_bytes == sum(values.nbytes for values in en.values())
    assert facts.read_bytes == 2 * facts.written_bytes
    assert list(TensorFiles(tmp_path / "out").tensors)


def test_index_of_several_files(tmp_path: Path) -> None:
    facts = merge(
        tmp_path / "out",
        inputs(tmp_path, {"en": model(1), "ko": model(2)}),
        stage("slerp", False, max_shard_size="1KB"),
    )
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert facts is not None and index["metadata"]["total_size"] == facts.written_bytes
    for name, file in index["weight_map"].items():
        assert name in load_file(tmp_path / "out" / file)
    assert set(index["weight_map"]) == set(model(1)) and set(index["weight_map"].values()) == set(facts.files)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_type_of_the_result(dtype: str, tmp_path: Path) -> None:
    given = inputs(tmp_path, {"en": model(1), "ko": model(2, torch.float32)}, model(0, torch.float16))
    merge(tmp_path / "asked", given, stage("ties", dtype=dtype))
    merge(tmp_path / "default", given, stage("ties"))
    assert read(tmp_path / "asked")["lm_head.weight"].dtype is getattr(torch, dtype)
    assert read(tmp_path / "asked")["positions"].dtype is torch.int64
    assert read(tmp_path / "default")["lm_head.weight"].dtype is torch.float16, "the base's own"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("where", "method"),
    [(where, method) for where in ("base", "en", "ko") for method in (TASK_VECTORS if where == "base" else METHODS)],
)
def test_what_is_not_finite_is_refused(where: str, method: str, value: float, tmp_path: Path) -> None:
    tensors = {"base": model(0), "en": model(1), "ko": model(2)}
    tensors[where]["lm_head.weight"][30, 3] = value
    given = inputs(tmp_path, {"en": tensors["en"], "ko": tensors["ko"]}, tensors["base"])
    with pytest.raises(StudyError, match=rf"lm_head\.weight of {where} holds NaN"):
        merge(tmp_path / "out", given, stage(method))
    assert not list((tmp_path / "out").iterdir())


def test_what_a_narrower_type_cannot_hold_is_refused(tmp_path: Path) -> None:
    big = {"x": torch.full((100,), 1e5)}
    with pytest.raises(StudyError, match="x: merged values are beyond what float16 holds"):
        merge(tmp_path / "out", inputs(tmp_path, {"en": big, "ko": big}), stage("linear", False, dtype="float16"))


def test_large_finite_values_are_no_mistake(tmp_path: Path) -> None:
    """Their sum is infinite, which is what is looked at first."""
    big = {"x": torch.full((100,), 3e38)}
    assert merge(tmp_path / "out", inputs(tmp_path, {"en": big, "ko": big}), stage("linear", False))
    assert read(tmp_path / "out")["x"].isfinite().all()


def test_whole_numbers_that_differ_are_refused(tmp_path: Path) -> None:
    other = {**model(2), "positions": torch.arange(1, 6)}
    with pytest.raises(StudyError, match=r"positions \(int64\) differs between en and ko"):
        merge(tmp_path / "out", inputs(tmp_path, {"en": model(1), "ko": other}), stage("linear", False))


def test_tensors_and_shapes_that_do_not_fit(tmp_path: Path) -> None:
    less = {name: values for name, values in model(2).items() if name != "scale"}
    with pytest.raises(StudyError, match="scale is in base, en and not in ko"):
        merge(tmp_path / "out", inputs(tmp_path / "a", {"en": model(1), "ko": less}, model(0)), stage("ties"))
    wide = {**model(2), "scale": torch.zeros(3, dtype=torch.bfloat16)}
    with pytest.raises(StudyError, match=r"scale is \[\] in base and \[3\] in ko"):
        merge(tmp_path / "out", inputs(tmp_path / "b", {"en": model(1), "ko": wide}, model(0)), stage("ties"))
    assert not (tmp_path / "out").exists(), "refused before a byte is written"


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
@pytest.mark.parametrize("absent", ["average", "zero_base", "take:ko"])
def test_tensors_that_the_base_lacks(absent: str, method: str, tmp_path: Path) -> None:
    base = {name: values for name, values in model(0, torch.float32).items() if name != "lm_head.weight"}
    en, ko = model(1, torch.float32), model(2, torch.float32)
    given = inputs(tmp_path, {"en": en, "ko": ko}, base)
    facts = merge(tmp_path / "out", given, stage(method, absent=absent))
    assert facts is not None and facts.absent == ["lm_head.weight"]
    found = read(tmp_path / "out")["lm_head.weight"]
    mean = 0.6 * en["lm_head.weight"] + 0.4 * ko["lm_head.weight"]
    if absent == "take:ko":
        assert torch.equal(found, ko["lm_head.weight"])
    elif absent == "average" or method == "task_arithmetic":
        torch.testing.assert_close(found, mean)
    else:
        settings = stage(method)
        given = inputs(tmp_path / "zero", {"en": en, "ko": ko}, {**base, "lm_head.weight": torch.zeros(37, 16)})
        merge(tmp_path / "zeros", given, settings)
        assert torch.equal(found, read(tmp_path / "zeros")["lm_head.weight"])


def test_tensors_that_the_base_lacks_are_refused_by_default(tmp_path: Path) -> None:
    base = {name: values for name, values in model(0).items() if name != "scale"}
    with pytest.raises(StudyError, match="1 tensors are in the models and not in the base, such as scale"):
        merge(tmp_path / "out", inputs(tmp_path, {"en": model(1), "ko": model(2)}, base), stage("ties"))


class Untouched(FolderSource):
    """A model that is known to be the base, and that cannot be read."""

    def is_untouched(self, name: str) -> bool:
        return True

    def read(self, *_: Any, **__: Any) -> Tensor:
        raise AssertionError("read although known")


def test_untouched_tensors_are_copied(tmp_path: Path) -> None:
    base = {name: values for name, values in model(0).items() if values.is_floating_point()}
    sources = {name: Untouched(save(tmp_path / "same", base)) for name in ("en", "ko")}
    given = Inputs(models=sources, base=FolderSource(save(tmp_path / "base", base)), carried_from=tmp_path)  # type: ignore[arg-type]
    merge(tmp_path / "out", given, stage("dare_ties"))
    assert digest(tmp_path / "out") == digest(tmp_path / "base")


def test_compat_gets_whole_tensors_in_the_order_of_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def merge_tensor(name: str, base: Tensor, models: Tensors, settings: MergeStage, role: str) -> Tensor:
        calls.append((name, role, list(models), base.shape))
        return models["ko"] - base

    module = types.ModuleType("tunestudy.merge.compat_mergekit")
    vars(module).update(merge_tensor=merge_tensor)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(one_stream, "begin", calls.append)
    given = inputs(tmp_path, {"en": model(1), "ko": model(2)}, model(0))
    facts = merge(tmp_path / "out", given, stage("ties", compat="mergekit"), threads=5, seed=9)
    assert facts is not None and facts.threads == 1
    floats = sorted(name for name, values in model(0).items() if values.is_floating_point() and values.numel())
    assert calls[0] == 9 and [call[0] for call in calls[1:]] == floats
    assert calls[1] == ("lm_head.weight", "lm_head", ["en", "ko"], (37, 16))
    assert torch.equal(
        read(tmp_path / "out")["lm_head.weight"], model(2)["lm_head.weight"] - model(0)["lm_head.weight"]
    )


@pytest.mark.parametrize("after", [0, 1, 15])
def test_asked_to_stop_leaves_nothing(after: int, tmp_path: Path) -> None:
    asked = iter([False] * after)
    given = inputs(tmp_path, {"en": model(1), "ko": model(2)}, model(0))
    assert merge(tmp_path / "out", given, stage("ties"), threads=1, stop=lambda: next(asked, True)) is None
    assert not list((tmp_path / "out").iterdir())


def test_an_index_that_cannot_be_written_is_told_as_it_is_and_leaves_no_weights(tmp_path: Path) -> None:
    tensors = dict.fromkeys("ab", (torch.float32, (2,)))
    (tmp_path / INDEX).mkdir()
    with pytest.raises(IsADirectoryError), ModelWriter(tmp_path, tensors, limit=8) as writer:
        writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == [INDEX]


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_a_full_disk_leaves_nothing(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(tmp_path, {"en": model(1), "ko": model(2)})
    working, calls = getattr(os, call), iter(range(100))

    def full(*arguments: Any) -> Any:
        if next(calls) >= 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return working(*arguments)

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left") as caught:
        merge(tmp_path / "out", given, stage("linear", False, max_shard_size="1KB"))
    assert caught.value.errno == errno.ENOSPC
    assert not list((tmp_path / "out").iterdir())


MEASURE = """
import resource, sys
from pathlib import Path
import torch
from tunestudy.config.merge import MergeStage
from tunestudy.merge.source import FolderSource, Inputs
from tunestudy.merge.stream import merge_into
root = Path(sys.argv[1])
models = {name: {"path": name, "density": 0.2} for name in ("en", "ko")}
settings = MergeStage(method="ties", models=models, base={"path": "base"})
sources = {name: FolderSource(root / name) for name in models}
given = Inputs(models=sources, base=FolderSource(root / "base"), carried_from=root)
torch.ones(1000).sum()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
merge_into(root / "out", given, settings, seed=0, threads=2, stop=lambda: False)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_is_that_of_parts_and_not_of_tensors(tmp_path: Path) -> None:
    values = torch.randn(12_000_000, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    for name in ("base", "en", "ko"):
        save(tmp_path / name, {"x": values if name == "base" else values * (1.01 if name == "en" else 0.98)})
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2 * values.nbytes + 2 * 16 * 4 * parts.PART, "three of these tensors alone are more"
