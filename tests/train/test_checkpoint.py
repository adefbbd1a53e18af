"""No checkpoint is believed: every way in which one can be wrong is noticed and the one before is used."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from stops import StopAt
from tinyjob import ADAPTER, facts_of, make_job, run, tiny_model
from torch import nn

from tunestudy.models.stored import by_file, stored_as
from tunestudy.records.atomic import is_disk_full
from tunestudy.records.layout import JobDir
from tunestudy.records.manifest import MANIFEST, problems, read_manifest, seal
from tunestudy.train import writer as writer_module
from tunestudy.train.checkpoint import (
    FlatCopy,
    NotFiniteError,
    Snapshot,
    optimizer_tensors,
    tensor_facts,
    weights_of,
    write_checkpoint,
)
from tunestudy.train.resume import find_start, load_optimizer, load_weights
from tunestudy.train.trainable import Trainable
from tunestudy.train.writer import CheckpointWriter

FINGERPRINT, BASE = "f" * 64, {"kind": "random", "sha256": "0"}
LORA_A = "base_model.model.model.layers.0.q_proj.lora_A.default.weight"
HEAD = "base_model.model.lm_head.modules_to_save.default.weight"


def trainables() -> list[Trainable]:
    torch.manual_seed(0)
    return [
        Trainable(name=name, parameter=nn.Parameter(torch.randn(shape)), role="r", learning_rate=0.1, decays=True)
        for name, shape in {LORA_A: (4, 3), HEAD: (2, 2)}.items()
    ]


def snapshot(params: list[Trainable], step: int, **facts: object) -> Snapshot:
    optimizer = torch.optim.AdamW([t.parameter for t in params], fused=True)
    for trainable in params:
        trainable.parameter.grad = torch.ones_like(trainable.parameter)
    optimizer.step()
    files = by_file(weights_of(params))
    return Snapshot(
        step=step,
        kind="full",
        tensors={**files, "resume/optimizer.safetensors": optimizer_tensors(optimizer, params)},
        texts={"resume/state.json": "{}"},
        facts={
            "kind": "full",
            "step": step,
            "fingerprint": FINGERPRINT,
            "base": BASE,
            "metrics": {},
            "tensors": tensor_facts(files),
            **facts,
        },
    )


@pytest.fixture
def job(tmp_path: Path) -> JobDir:
    """A job with full checkpoints of steps 1 and 2."""
    folder = JobDir(tmp_path)
    for step in (1, 2):
        write_checkpoint(snapshot(trainables(), step), folder.checkpoint(step))
    return folder


def weights_file(path: Path) -> Path:
    return path / "adapter_model.safetensors"


def resealed(change: Callable[[dict], dict]) -> Callable[[Path], None]:
    """Change the weights and vouch for them with a new manifest, as a buggy writer would."""

    def corrupt(path: Path) -> None:
        facts = read_manifest(path)
        facts.pop("files")
        prepared = path.parent / "prepared"
        shutil.copytree(path, prepared)
        (prepared / MANIFEST).unlink()
        save_file(change(load_file(weights_file(path))), weights_file(prepared))
        seal(prepared, path, facts)

    return corrupt


def flip_a_bit(path: Path) -> None:
    data = bytearray(weights_file(path).read_bytes())
    data[-1] ^= 1
    weights_file(path).write_bytes(data)


def edit_manifest(**facts: object) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        manifest = json.loads((path / MANIFEST).read_text())
        (path / MANIFEST).write_text(json.dumps({**manifest, **facts}))

    return edit


STORED_A = stored_as(LORA_A)[1]

CORRUPTIONS = {
    "flipped bit": (flip_a_bit, "does not match its SHA-256"),
    "truncated": (lambda p: weights_file(p).write_bytes(weights_file(p).read_bytes()[:-4]), "the manifest says"),
    "file missing": (lambda p: weights_file(p).unlink(), "adapter_model.safetensors is missing"),
    "optimiser missing": (lambda p: (p / "resume/optimizer.safetensors").unlink(), "optimizer.safetensors is missing"),
    "manifest missing": (lambda p: (p / MANIFEST).unlink(), "has no readable MANIFEST.json"),
    "manifest torn": (lambda p: (p / MANIFEST).write_text('{"kind": "fu'), "has no readable MANIFEST.json"),
    "tensor missing": (resealed(lambda t: {k: v for k, v in t.items() if k != STORED_A}), f"lacks {STORED_A}"),
    "no tensors": (resealed(lambda _: {}), "holds no tensors"),
    "wrong shape": (resealed(lambda t: {**t, STORED_A: torch.zeros(4, 4)}), "has shape (4, 4), not (4, 3)"),
    "not finite": (resealed(lambda t: {**t, STORED_A: torch.full((4, 3), torch.nan)}), "not finite"),
    "a tensor too many": (resealed(lambda t: {**t, "x": torch.zeros(1)}), "holds x"),
    "not safetensors": (
        lambda p: (weights_file(p).write_text("?"), resealed_as_is(p)),
        "adapter_model.safetensors cannot be read",
    ),
    "foreign fingerprint": (edit_manifest(fingerprint="e" * 64), "belongs to another job (eeeeeeeeeeee)"),
    "foreign base": (edit_manifest(base={"kind": "hub"}), "another base model"),
}


def resealed_as_is(path: Path) -> None:
    facts = read_manifest(path)
    facts.pop("files")
    prepared = path.parent / "prepared"
    shutil.copytree(path, prepared)
    (prepared / MANIFEST).unlink()
    seal(prepared, path, facts)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_bad_checkpoint_is_passed_over_with_its_problem(job: JobDir, name: str) -> None:
    corrupt, message = CORRUPTIONS[name]
    assert find_start(job, trainables(), fingerprint=FINGERPRINT, base=BASE) == (2, [])
    corrupt(job.checkpoint(2))
    step, messages = find_start(job, trainables(), fingerprint=FINGERPRINT, base=BASE)
    assert step == 1
    assert len(messages) == 1
    assert messages[0].startswith("checkpoint-2 is not used: ")
    assert message in messages[0]


def test_without_any_good_checkpoint_the_run_starts_from_step_0(job: JobDir) -> None:
    for step in (1, 2):
        flip_a_bit(job.checkpoint(step))
    step, messages = find_start(job, trainables(), fingerprint=FINGERPRINT, base=BASE)
    assert (step, len(messages)) == (0, 2)


def test_weights_and_optimiser_come_back_bit_for_bit(job: JobDir) -> None:
    params = trainables()
    taken = snapshot(params, 2)
    fresh = [Trainable(**{**vars(t), "parameter": nn.Parameter(torch.zeros_like(t.parameter))}) for t in params]
    optimizer = torch.optim.AdamW([t.parameter for t in reversed(fresh)], fused=True)
    write_checkpoint(taken, job.checkpoint(3))
    load_weights(job.checkpoint(3), fresh)
    load_optimizer(job.checkpoint(3), optimizer, fresh)
    assert all(torch.equal(a.parameter, b.parameter) for a, b in zip(params, fresh, strict=True))
    restored = optimizer_tensors(optimizer, fresh)
    expected = taken.tensors["resume/optimizer.safetensors"]
    assert restored.keys() == expected.keys()
    assert all(torch.equal(restored[name], expected[name]) for name in expected)


def test_weights_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    params = trainables()
    taken = snapshot(params, 1)
    with torch.no_grad():
        params[0].parameter[0, 0] = torch.inf
    with pytest.raises(NotFiniteError, match="lora_A"):
        write_checkpoint(taken, tmp_path / "checkpoint-1")
    assert not list(tmp_path.iterdir())


def test_a_flat_copy_does_not_change_with_its_source() -> None:
    source = {"a": torch.ones(2, 3), "b": torch.tensor(2.0), "c": torch.ones(4, dtype=torch.float64)}
    copy = FlatCopy(source)
    taken = copy.take(source)
    for tensor in source.values():
        tensor.zero_()
    assert torch.equal(taken["a"], torch.ones(2, 3))
    assert taken["b"] == 2.0
    assert taken["b"].shape == ()
    assert taken["c"].dtype is torch.float64


FULL_DISKS = {
    "open and write": OSError(errno.ENOSPC, "No space left on device"),
    "quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "safetensors": Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    "torch": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
}


@pytest.mark.parametrize("name", FULL_DISKS)
def test_a_full_disk_loses_a_checkpoint_but_not_the_run(
    job: JobDir, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert is_disk_full(FULL_DISKS[name])
    real = writer_module.write_checkpoint

    def no_space(taken: Snapshot, final: Path) -> None:
        if taken.step == 3:
            raise FULL_DISKS[name]
        real(taken, final)

    monkeypatch.setattr(writer_module, "write_checkpoint", no_space)
    settings = stage_settings()
    writer = CheckpointWriter(job, settings, (), ())
    for step in (3, 4):
        writer.wait()
        writer.submit(snapshot(trainables(), step))
    writer.close()
    assert writer.given_up == {3}
    assert "no space left for checkpoint-3" in capsys.readouterr().err
    assert sorted(path.name for path in job.root.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]


def stage_settings(**settings: object) -> object:
    from tunestudy.config.stage import TrainStage

    return TrainStage.model_validate({"data": ["d"], "learning_rate": 0.1, **settings})


def test_any_other_error_of_the_thread_reaches_the_loop(job: JobDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_taken: Snapshot, _final: Path) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(writer_module, "write_checkpoint", broken)
    writer = CheckpointWriter(job, stage_settings(), (), ())
    writer.submit(snapshot(trainables(), 3))
    with pytest.raises(PermissionError):
        writer.wait()
    writer.close()


def test_a_flipped_bit_costs_steps_but_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "quiet").mkdir()
    (tmp_path / "hit").mkdir()
    expected = make_job(tmp_path / "quiet", adapter=ADAPTER)
    assert run(expected)
    folder = make_job(tmp_path / "hit", adapter=ADAPTER)
    assert run(folder, stop=StopAt(8)) is False
    flip_a_bit(folder.checkpoint(7))
    assert run(folder)
    told = capsys.readouterr().err
    assert "checkpoint-7 is not used: checkpoint-7/adapter_model.safetensors does not match its SHA-256" in told
    assert "resuming after step 6" in told
    assert facts_of(folder) == facts_of(expected)


def test_a_lite_checkpoint_loads_in_stock_peft_with_the_same_outputs(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = make_job(
        tmp_path,
        adapter=ADAPTER,
        train=["lm_head"],
        model=tiny_model(tie_word_embeddings=False),
        full_save_steps=None,
    )
    assert run(folder)
    checkpoint = folder.checkpoint(8)
    files = {path.name for path in checkpoint.iterdir()}
    assert files == {"adapter_model.safetensors", "adapter_config.json", MANIFEST}
    assert problems(checkpoint) == []
    config = json.loads((checkpoint / "adapter_config.json").read_text())
    assert not Path(config["base_model_name_or_path"]).is_absolute()
    base = (checkpoint / config["base_model_name_or_path"]).resolve()
    ids = torch.arange(1, 12)[None]
    with torch.no_grad():
        logits = [
            PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), where).eval()(input_ids=ids).logits
            for where in (checkpoint, folder.model)
        ]
        untouched = AutoModelForCausalLM.from_pretrained(base)(input_ids=ids).logits
    assert torch.equal(*logits)
    assert not torch.allclose(logits[0], untouched, atol=1e-3)
