"""Losses without logits equal those of full logits, one sample at a time: values, gradients, sources."""

from copy import deepcopy
from typing import Any, Literal

import pytest
import torch
from losses import token_losses
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    GPTJConfig,
    GraniteConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from tunestudy.config.errors import StudyError
from tunestudy.data.batch import IGNORED, Batch
from tunestudy.models.attention import switch_to_segment_attention
from tunestudy.train import linear_ce
from tunestudy.train.head import check_head
from tunestudy.train.linear_ce import Scratch, linear_cross_entropy
from tunestudy.train.loss import LossModel, LossSums

torch.set_num_threads(1)

VOCABULARY = 61
LENGTHS = [9, 2, 14, 5]
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
GROUPED: dict[str, Any] = {**SHAPE, "num_key_value_heads": 2}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

Layout = Literal["free", "right", "right packed"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks even for thirty positions, the last one not full."""
    monkeypatch.setattr(linear_ce, "chunk_rows", lambda *_: 7)
    monkeypatch.setattr("tunestudy.train.loss.chunk_rows", lambda *_: 7)


def qwen3(*, tied: bool = False) -> Any:
    torch.manual_seed(0)
    config = Qwen3Config(**GROUPED, head_dim=8, tie_word_embeddings=tied)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def with_lora(model: Any, target_modules: Any = "all-linear", **options: Any) -> Any:
    torch.manual_seed(1)
    peft = get_peft_model(model, LoraConfig(r=4, target_modules=target_modules, init_lora_weights=False, **options))
    return peft.eval()


def samples(masked: float = 0.3) -> list[tuple[Tensor, Tensor]]:
    """(ids, targets) of every sample; a share of the targets is masked."""
    random = torch.Generator().manual_seed(2)
    made = []
    for length in LENGTHS:
        ids = torch.randint(VOCABULARY, (length,), generator=random)
        targets = torch.cat([ids[1:], torch.tensor([IGNORED])])
        targets[torch.rand(length, generator=random) < masked] = IGNORED
        made.append((ids, targets))
    return made


def as_batch(made: list[tuple[Tensor, Tensor]], layout: Layout) -> Batch:
    """The samples in one batch; sample i is of source i mod 2."""
    lengths = [len(ids) for ids, _ in made]
    positions = [torch.arange(length) for length in lengths]
    sources = [torch.full((length,), i % 2) for i, length in enumerate(lengths)]
    parts = list(zip(*made, strict=True))
    counts = {"num_tokens": sum(lengths), "num_targets": sum(int((t != IGNORED).sum()) for _, t in made)}
    if layout == "free":
        borders = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
        ids, targets, position, source = (torch.cat(list(part))[None] for part in (*parts, positions, sources))
        return Batch(
            input_ids=ids, position_ids=position, targets=targets, sources=source, cu_seqlens=borders, **counts
        )
    rows = [[i] for i in range(len(made))] if layout == "right" else [[0, 1, 2], [3]]

    def grid(values: list[Tensor], padding: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(
            [torch.cat([values[i] for i in row]) for row in rows], batch_first=True, padding_value=padding
        )

    segments = [torch.full((length,), i) for i, length in enumerate(lengths)]
    return Batch(
        input_ids=grid(list(parts[0]), 0),
        position_ids=grid(positions, 0),
        targets=grid(list(parts[1]), IGNORED),
        sources=grid(sources, 0),
        attention_mask=grid([torch.ones(length, dtype=torch.bool) for length in lengths], False),
        segment_ids=grid(segments, -1) if layout == "right packed" else None,
        **counts,
    )


def reference(model: Any, made: list[tuple[Tensor, Tensor]], smoothing: float = 0.0) -> list[Tensor]:
    """Σ losses of every sample alone, from the model's own full logits."""
    return [
        cross_entropy(
            model(input_ids=ids[None], use_cache=False).logits[0], targets, reduction="sum", label_smoothing=smoothing
        )
        for ids, targets in made
    ]


def gradient(model: Any, loss: Tensor) -> Tensor:
    """All trainable parameters' in one vector; absent ones are an error."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])


def assert_equal_to_reference(
    model: Any, made: list[tuple[Tensor, Tensor]], layout: Layout, smoothing: float = 0.0
) -> LossSums:
    alone = reference(model, made, smoothing)
    expected = torch.stack(alone).sum()
    got = token_losses(LossModel(model), as_batch(made, layout), label_smoothing=smoothing, num_sources=2)
    torch.testing.assert_close(got.nll_sum, expected, rtol=1e-5, atol=0)
    by_source = torch.stack([alone[0] + alone[2], alone[1] + alone[3]]).double().detach()
    torch.testing.assert_close(got.nll_by_source, by_source, rtol=1e-5, atol=0)
    assert got.target_tokens == int(got.tokens_by_source.sum()) == sum(int((t != IGNORED).sum()) for _, t in made)
    want = gradient(model, expected)
    assert want.norm() > 0
    assert (gradient(model, got.nll_sum) - want).norm() <= 1e-5 * want.norm()
    return got


@pytest.mark.parametrize("layout", ["free", "right", "right packed"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_full_logits_one_sample_at_a_time(layout: Layout, tied: bool, lora: bool, smoothing: float) -> None:
    model = with_lora(qwen3(tied=tied)) if lora else qwen3(tied=tied)
    assert switch_to_segment_attention(model) is None
    assert LossModel(model).head.kind == "fused"
    assert_equal_to_reference(model, samples(), layout, smoothing)


@pytest.mark.parametrize("layout", ["free", "right", "right packed"])
def test_a_model_without_segment_attention(layout: Layout) -> None:
    assert_equal_to_reference(qwen3(), samples(), layout)


CONFIGS: dict[str, tuple[PreTrainedConfig, str]] = {
    "granite divides": (GraniteConfig(**GROUPED, logits_scaling=3.0), "fused"),
    "cohere multiplies": (CohereConfig(**GROUPED, **SPECIAL, logit_scale=0.25), "fused"),
    "gemma2 caps": (Gemma2Config(**GROUPED, head_dim=8, final_logit_softcapping=0.5), "chunked"),
    "gptj adds a bias": (GPTJConfig(vocab_size=VOCABULARY, n_embd=32, n_layer=1, n_head=4, rotary_dim=4), "fused"),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_heads_that_do_more_than_multiply(name: str, smoothing: float) -> None:
    config, kind = CONFIGS[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(deepcopy(config), dtype=torch.float32)
    assert check_head(model).kind == kind
    assert_equal_to_reference(model, samples(), "right", smoothing)


def test_lora_on_the_head_goes_through_the_head() -> None:
    model = with_lora(qwen3(), ["q_proj", "lm_head"])
    head = check_head(model)
    assert head.kind == "chunked"
    assert "not a plain linear layer" in (head.reason or "")
    assert_equal_to_reference(model, samples(), "free")


def test_a_trained_copy_of_the_head_is_fused() -> None:
    model = with_lora(qwen3(), ["q_proj"], modules_to_save=["lm_head"])
    assert check_head(model).kind == "fused"
    assert_equal_to_reference(model, samples(), "free")


def test_a_head_that_is_not_understood_gives_all_logits() -> None:
    class Odd(type(qwen3())):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            output.logits = output.logits + output.logits.roll(1, -1)
            return output

    model = qwen3()
    model.__class__ = Odd
    head = check_head(model)
    assert head.kind == "full"
    assert "not known" in (head.reason or "")
    assert switch_to_segment_attention(model) is None
    assert_equal_to_reference(model, samples(), "free", 0.1)


@pytest.mark.parametrize("lora_on_head", [False, True])
def test_no_targets_give_zero_and_gradients_of_zeros(lora_on_head: bool) -> None:
    model = with_lora(qwen3(), ["q_proj", "lm_head"]) if lora_on_head else qwen3()
    made = [(ids, torch.full_like(targets, IGNORED)) for ids, targets in samples()]
    got = token_losses(LossModel(model), as_batch(made, "free"), num_sources=2)
    assert got.nll_sum.item() == 0
    assert got.nll_by_source.tolist() == [0, 0]
    assert gradient(model, got.nll_sum).count_nonzero() == 0


@pytest.mark.parametrize("layout", ["free", "right packed"])
def test_a_sample_changes_no_other_sample_s_loss(layout: Layout) -> None:
    model = qwen3()
    switch_to_segment_attention(model)
    loss_model = LossModel(model)
    made = samples(masked=0.0)
    ids = (made[0][0] + 1) % VOCABULARY
    changed = [(ids, torch.cat([ids[1:], torch.tensor([IGNORED])])), *made[1:]]
    before = loss_model(as_batch(made, layout), num_sources=2).nll_by_source
    after = loss_model(as_batch(changed, layout), num_sources=2).nll_by_source
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_a_model_that_mixes_samples_is_refused() -> None:
    model = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=1, n_head=4))
    loss_model = LossModel(model)
    with pytest.raises(StudyError, match="mixes samples"):
        loss_model(as_batch(samples(), "right packed"))
    assert_equal_to_reference(model, samples(), "right")


def test_activation_checkpointing_changes_nothing() -> None:
    model = qwen3().train()
    switch_to_segment_attention(model)
    loss_model, batch = LossModel(model), as_batch(samples(), "free")
    expected = gradient(model, loss_model(batch).nll_sum)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert torch.equal(gradient(model, loss_model(batch).nll_sum), expected)


def test_accumulated_micro_batches_give_the_gradient_of_all() -> None:
    model = qwen3()
    switch_to_segment_attention(model)
    loss_model, made = LossModel(model), samples()
    whole = gradient(model, loss_model(as_batch(made, "free")).nll_sum)
    halves = sum(gradient(model, loss_model(as_batch(part, "free")).nll_sum) for part in (made[:1], made[1:]))
    assert (halves - whole).norm() <= 1e-5 * whole.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("on_head", [False, True])
def test_autocast_stays_close(dtype: torch.dtype, on_head: bool) -> None:
    model = with_lora(qwen3(), ["q_proj", "lm_head"]) if on_head else qwen3()
    loss_model, batch = LossModel(model), as_batch(samples(), "right")
    exact = loss_model(batch).nll_sum
    with torch.autocast("cpu", dtype=dtype):
        got = loss_model(batch).nll_sum
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, exact, rtol=1e-2, atol=0)
    want = gradient(model, exact)
    assert (gradient(model, got) - want).norm() <= 5e-2 * want.norm()


def test_evaluation_keeps_no_gradient() -> None:
    loss_model = LossModel(qwen3()).eval()
    with torch.no_grad():
        got = loss_model(as_batch(samples(), "right"))
    assert not got.nll_sum.requires_grad
    torch.testing.assert_close(got.nll_sum, loss_model(as_batch(samples(), "right")).nll_sum, rtol=1e-6, atol=0)


def test_logits_never_exist_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """No buffer of more than a chunk's rows, and masked positions never reach the head."""
    seen: list[int] = []
    logits = linear_ce._logits

    def spy(hidden: Tensor, *rest: Any) -> Tensor:
        seen.append(len(hidden))
        return logits(hidden, *rest)

    monkeypatch.setattr(linear_ce, "_logits", spy)
    got = LossModel(qwen3())(as_batch(samples(masked=0.5), "right"))
    assert max(seen) <= 7
    assert sum(seen) == got.target_tokens < sum(LENGTHS) - len(LENGTHS)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_improbable_targets_keep_their_exact_loss(smoothing: float) -> None:
    """Logits so far apart that the target's probability is zero in fp32."""
    hidden = (torch.eye(4) * 40).requires_grad_()
    weight = (torch.randn(VOCABULARY, 4, generator=torch.Generator().manual_seed(3)) * 5).requires_grad_()
    targets = (hidden @ weight.T).argmin(1)
    expected = cross_entropy(hidden @ weight.T, targets, reduction="none", label_smoothing=smoothing)
    assert (1 - smoothing) * 104 < expected.min()
    total, losses = linear_cross_entropy(hidden, weight, None, targets, smoothing, Scratch())
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=0)
    for got, want in zip(
        torch.autograd.grad(total, [hidden, weight]), torch.autograd.grad(expected.sum(), [hidden, weight]), strict=True
    ):
        torch.testing.assert_close(got, want)


def test_a_loss_is_differentiated_once() -> None:
    hidden = torch.randn(3, 4, requires_grad=True)
    total, _ = linear_cross_entropy(hidden, torch.randn(5, 4), None, torch.tensor([0, 1, 2]), 0.0, Scratch())
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="already differentiated"):
        total.backward()
