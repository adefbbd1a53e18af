"""Memory that is counted without holding it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tinyjob import ADAPTER, make_job, tiny_model

from tunestudy.adapters.attach import attach
from tunestudy.config.adapter import DoraAdapter, LoraAdapter
from tunestudy.config.job import Job
from tunestudy.config.stage import Quantization
from tunestudy.models.attention import switch_untried
from tunestudy.models.hollow import hollow_start
from tunestudy.models.origin import load_tokenizer, random_weights
from tunestudy.records.atomic import read_json
from tunestudy.train.foresee import foresee, main
from tunestudy.train.holdings import holdings_of, moment_bytes, packed_bytes
from tunestudy.train.pretend import drop_as_gpus_do, peak_of, peaks_of_decoder

CPU = torch.device("cpu")


def counted(root: Path, ranks: int = 1, **settings: Any) -> dict[str, Any]:
    folder = make_job(root, **settings)
    return foresee(Job.model_validate(read_json(folder.job_json)), folder, ranks=ranks, device=CPU)


def test_terms_of_full_training_are_those_of_adamw(tmp_path: Path) -> None:
    found = counted(tmp_path)
    assert found["trainable"] == found["gradients"] == 4 * found["values"]
    assert found["optimizer"] == 8 * found["values"]
    assert found["copies"] == 12 * found["values"], "a full checkpoint waits in memory to be written"
    assert found["notes"] == []


@pytest.mark.parametrize("kind", [LoraAdapter, DoraAdapter])
def test_pretended_peak_is_what_a_real_pass_holds(kind: Any, tmp_path: Path) -> None:
    """Of six blocks, two of which are inferred."""
    folder = make_job(tmp_path, model=tiny_model(num_hidden_layers=6, hidden_size=64, intermediate_size=96))
    job = Job.model_validate(read_json(folder.job_json))
    adapter, size = kind(lora_r=4, target_modules="all-linear"), {"rows": 4, "dtype": torch.float32}
    tokenizer = load_tokenizer(job.model, folder.root)
    real = attach(random_weights(job.model, tokenizer, seed=1, device="cpu"), adapter, seed=1).train()
    hollow = attach(hollow_start(job, folder).model, adapter, seed=1).train()
    assert switch_untried(real) is None
    assert switch_untried(hollow) is None
    held = peak_of(real, length=64, inputs_learn=False, **size)
    assert peaks_of_decoder(hollow, lengths=[64], inputs_learn=False, **size) == [pytest.approx(held, rel=0.02)]


def test_activation_checkpointing_keeps_less(tmp_path: Path) -> None:
    model = tiny_model(num_hidden_layers=8)
    plain = counted(tmp_path, model=model, adapter=ADAPTER)
    spared = counted(tmp_path, model=model, adapter=ADAPTER, activation_checkpointing=True)
    assert spared["activations"][0] < 0.5 * plain["activations"][0]
    assert plain["activations"][1] == pytest.approx(plain["activations"][0] / 2, rel=0.1), "linear in tokens"


@pytest.mark.slow
def test_compiled_blocks_keep_less_and_do_not_stay_compiled(tmp_path: Path) -> None:
    """The next stage is counted in the same process."""
    folder = make_job(tmp_path, model=tiny_model(num_hidden_layers=2))
    job = Job.model_validate(read_json(folder.job_json))
    adapter = LoraAdapter(lora_r=4, target_modules=["q_proj", "v_proj"])
    model = attach(hollow_start(job, folder).model, adapter, seed=1).train()
    size: Any = {"rows": 4, "lengths": [64], "dtype": torch.float32, "inputs_learn": False}
    [plain], [compiled], [again] = (peaks_of_decoder(model, **size, compiled=asked) for asked in (False, True, False))
    assert compiled < 0.95 * plain
    assert again == plain


def test_dropout_keeps_a_byte_for_each_number_on_a_gpu() -> None:
    model, kept = torch.nn.Sequential(torch.nn.Dropout(0.5)).train(), []
    for _ in range(2):
        with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda saved: saved):
            dropped = model(torch.ones(4000, requires_grad=True))
        assert dropped.unique().tolist() == [0.0, 2.0]
        assert dropped.mean().item() == pytest.approx(1.0, abs=0.1)
        drop_as_gpus_do(model)
    assert [tensor.nbytes for tensor in kept] == [16000, 4000]


def test_a_model_that_looks_into_its_tensors_gets_a_rule_of_thumb_and_says_so(tmp_path: Path) -> None:
    from tinyjob import moe_model

    found = counted(tmp_path, model=moe_model(), adapter={**ADAPTER, "target_modules": ["q_proj", "v_proj"]})
    assert found["notes"][0].startswith("activations are a rule of thumb (")


@pytest.mark.parametrize(
    ("engine", "sliced"),
    [
        ({"engine": "ddp"}, set()),
        ({"engine": "fsdp2"}, {"frozen", "trainable", "gradients", "optimizer"}),
        ({"engine": "fsdp2", "fsdp2": {"shard": "gradients"}}, {"trainable", "gradients", "optimizer"}),
        ({"engine": "fsdp2", "fsdp2": {"within_node": True}}, {"frozen", "trainable", "gradients", "optimizer"}),
        ({"engine": "deepspeed", "deepspeed": {"zero_optimization": {"stage": 2}}}, {"gradients"}),
    ],
)
def test_engines_slice_what_they_slice(engine: dict[str, Any], sliced: set[str], tmp_path: Path) -> None:
    folder = make_job(tmp_path, adapter=ADAPTER, **engine)
    job = Job.model_validate(read_json(folder.job_json))
    model = attach(hollow_start(job, folder).model, LoraAdapter(lora_r=4, target_modules="all-linear"), seed=1)
    settings = job.training
    assert settings is not None
    whole, part = (holdings_of(model, settings, ranks).as_json() for ranks in (1, 4))
    assert {
        name for name in ("frozen", "trainable", "gradients", "optimizer") if part[name] * 4 <= whole[name] + 16
    } == sliced
    assert (part["gather"] > 0) == (engine["engine"] != "ddp")


def test_a_model_cut_within_a_machine_is_whole_on_each(tmp_path: Path) -> None:
    folder = make_job(tmp_path, adapter=ADAPTER, engine="fsdp2", fsdp2={"within_node": True})
    job = Job.model_validate(read_json(folder.job_json))
    model = hollow_start(job, folder).model
    settings = job.training
    assert settings is not None
    over_two, over_eight = (holdings_of(model, settings, 8, per_host).as_json() for per_host in (2, 8))
    assert over_two["frozen"] == pytest.approx(4 * over_eight["frozen"], rel=0.01)


def test_few_bits_and_small_moments_are_counted_as_bitsandbytes_packs_them() -> None:
    weight = torch.empty(256, 256, device="meta")
    assert packed_bytes(weight, Quantization(load_in_4bit=True)) == 32768 + 1024 + 16
    assert packed_bytes(weight, Quantization(load_in_4bit=True, bnb_4bit_use_double_quant=False)) == 32768 + 4096
    assert packed_bytes(weight, Quantization(load_in_8bit=True)) == 65536 + 1024
    assert moment_bytes("w", weight, "adamw_8bit", 0.0) == 2 * 65536 + 2 * 4 * 256
    assert moment_bytes("w", weight[:1], "adamw_8bit", 0.0) == 8 * 256, "small tensors stay in 32 bits"
    assert moment_bytes("w", weight, "sgd", 0.0) == 0
    assert moment_bytes("w", weight, "adafactor", 0.0) == 4 * 512


def test_a_model_that_is_not_here_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = make_job(tmp_path, model={"model_name_or_path": "nobody/nothing-7b"})
    main(1, 1, "cpu", str(folder.root))
    assert read_json(folder.root / "foresee.json") == {
        "missing": "nobody/nothing-7b: its configuration is not on this machine"
    }


def test_counting_leaves_nothing_pretended_behind(tmp_path: Path) -> None:
    """A real run in the same process works after it."""
    from tinyjob import run

    counted(tmp_path, adapter={**ADAPTER, "type": "dora"})
    assert run(make_job(tmp_path, adapter={**ADAPTER, "type": "dora"}, max_steps=1))
