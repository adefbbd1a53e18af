"""Which layers a mixture goes on, what of it learns, and which experts do not fit."""

from typing import Any

import pytest
import torch
from tinymole import LAYERS, mixture, with_mixture
from transformers import AutoModelForCausalLM, Qwen3Config

from tunestudy.adapters.mole import Factors, install_mole, let_learn, mole_targets, num_parameters
from tunestudy.config.adapter import MoleAdapter
from tunestudy.config.errors import StudyError
from tunestudy.config.stage import TrainStage
from tunestudy.models.mole import mole_of
from tunestudy.train.trainable import find_trainables

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 20}


def tiny() -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        Qwen3Config(**SIZES, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    ).eval()


def factors_of(adapter: MoleAdapter, rank: int = 2) -> dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    torch.manual_seed(1)
    return {
        expert: {
            f"model.layers.{block}.{layer}": (torch.randn(rank, inputs), torch.randn(outputs, rank))
            for block in range(2)
            for layer, (inputs, outputs) in LAYERS.items()
        }
        for expert in adapter.inputs
    }


def settled(**options: Any) -> MoleAdapter:
    return MoleAdapter.model_validate(mixture(**options))


def test_at_first_every_expert_has_an_equal_share() -> None:
    adapter, model, plain = settled(), tiny(), tiny()
    factors = factors_of(adapter)
    install_mole(model, adapter, factors)
    with torch.no_grad():
        for name in mole_targets(plain, adapter):
            for of_expert in factors.values():
                down, up = of_expert[name]
                plain.get_submodule(name).weight += up @ down / 3
    ids = torch.arange(8)[None]
    torch.testing.assert_close(model(ids).logits, plain(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"train_experts": False}, {"gate": "layer", "learn_temperature": True}])
def test_what_learns_is_what_the_formula_counts(options: dict[str, Any]) -> None:
    adapter, model = settled(lora_r=2, **options), tiny()
    install_mole(model, adapter, factors_of(adapter))
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    of_experts = sum(2 * num_parameters(adapter, inputs, outputs) for inputs, outputs in LAYERS.values())
    of_gate = len(adapter.experts) * (1 if adapter.gate == "layer" else 32) + int(adapter.learn_temperature)
    assert sum(p.numel() for p in learning.values()) == of_experts + 2 * of_gate
    assert all(".lora_" in name and p.dtype is torch.float32 for name, p in learning.items())
    ids = torch.arange(8)[None]
    model(ids).logits.square().sum().backward()
    assert all(p.grad is not None for p in learning.values())
    assert all(p.grad is None for name, p in model.named_parameters() if name not in learning)


def test_gates_have_a_rate_of_their_own_and_no_decay() -> None:
    model = with_mixture(tiny())
    stage = TrainStage(
        data=({"dataset": "d"},), learning_rate=0.1, weight_decay=0.5, adapter=settled(gate_learning_rate=0.5)
    )
    found = find_trainables(model, stage)
    gates = [t for t in found if ".lora_router." in t.name]
    others = [t for t in found if ".lora_router." not in t.name]
    assert len(gates) == 2 and {(t.learning_rate, t.decays, t.role) for t in gates} == {(0.5, False, "language_model")}
    assert {(t.learning_rate, t.decays) for t in others} == {(0.1, True)}


def test_an_expert_may_leave_layers_out_and_a_layer_without_any_stays_plain() -> None:
    adapter, model = settled(target_modules=["q_proj", "down_proj", "up_proj"]), tiny()
    factors = factors_of(adapter)
    del factors["ko"]["model.layers.0.mlp.down_proj"]
    install_mole(model, adapter, factors)
    mole = mole_of(model)
    assert mole is not None and mole.ranks["model.layers.0.mlp.down_proj"] == (2, 0, 0)
    assert "model.layers.0.mlp.up_proj" not in mole.layers and len(mole.layers) == 4
    assert not model.model.layers[0].mlp.up_proj.weight.requires_grad


def test_going_on_takes_over_what_belongs_to_the_training() -> None:
    model = with_mixture(tiny(), lora_dropout=0.3)
    let_learn(model, settled(train_experts=False, gate_noise=0.7, temperature=2.0))
    mole = mole_of(model)
    assert mole is not None and mole.settings.gate_noise == 0.7
    assert all(gate.temperature == 2.0 for gate in mole.gates.values())
    assert not any(isinstance(module, torch.nn.Dropout) for module in model.modules())
    assert {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad} == {"weight"}


def wrong_factors(case: str, adapter: MoleAdapter) -> Factors:
    factors = factors_of(adapter)
    name = "model.layers.0.self_attn.q_proj"
    down, up = factors["en"][name]
    if case == "shape":
        factors["en"][name] = down[:, 1:], up
    elif case == "not finite":
        up[0, 0] = float("nan")
    elif case == "left out":
        factors["en"]["model.layers.0.mlp.up_proj"] = torch.zeros(2, 32), torch.zeros(48, 2)
    elif case == "nothing":
        factors["en"] = {}
    return factors


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("shape", "which do not fit that layer"),
        ("not finite", "values that are not finite"),
        ("left out", "layers that target_modules leaves out, such as model.layers.0.mlp.up_proj"),
        ("nothing", "factors for none of the adapted layers"),
    ],
)
def test_experts_that_do_not_fit_are_named(case: str, said: str) -> None:
    adapter = settled()
    with pytest.raises(StudyError, match=said) as error:
        install_mole(tiny(), adapter, wrong_factors(case, adapter))
    assert error.value.place.key == "adapter.experts.en"


def test_names_and_modules_that_cannot_be() -> None:
    adapter = MoleAdapter(experts={"step": "x", "b": None}, target_modules=("q_proj",))
    with pytest.raises(StudyError, match="is the name of another column"):
        install_mole(tiny(), adapter, {"step": {}})
    with pytest.raises(StudyError, match="no module is named"):
        install_mole(tiny(), settled(target_modules=["q_project"]), {})
