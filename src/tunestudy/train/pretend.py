"""How much memory a forward and backward pass takes, found by doing it with tensors that pretend to be there.

A few of a model's blocks are run and the rest follows: blocks are alike, so memory grows by the same amount with each.
What is counted is every tensor alive at once beside weights and gradients: what the backward pass needs, what
activation checkpointing forms again, and temporaries.
"""

import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tunestudy.models.decoder import SEGMENT_ATTENTION, Segments, base_model_of
from tunestudy.models.hollow import fill_with_nothing

FEW = 2
"""Blocks of the smaller of two runs; the larger has twice as many. Models with fewer blocks than that run whole."""
CUTS_LIKE_INDUCTOR = "aot_eager_decomp_partition"
"""torch's back-end that decides as inductor does what a compiled block keeps and what it forms again. No compiler."""


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts bytes of storages that operations made and somebody still holds."""

    def __init__(self, known: list[Tensor]) -> None:
        """known: tensors that are not counted, nor views of them."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._held: dict[int, weakref.ref[Any]] = {}
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    @classmethod
    def is_infra_mode(cls) -> bool:
        """True: it only watches, so that blocks stay compiled beneath it."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return made

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or key in self._held:
            return
        self.now += size
        self.peak = max(self.peak, self.now)

        def let_go(_: Any) -> None:
            self.now -= size
            del self._held[key]

        self._held[key] = weakref.ref(storage, let_go)


def peaks_of_decoder(
    model: nn.Module,
    *,
    rows: int,
    lengths: Sequence[int],
    dtype: torch.dtype,
    inputs_learn: bool,
    compiled: bool = False,
) -> list[int]:
    """Bytes at the peak of micro-batches of (rows, length) tokens through the text model, up to its last hidden states.

    model: on `meta`; its tensors are replaced by pretended ones. dtype: of autocast; float32 is none. inputs_learn:
    gradients are wanted of what comes before the blocks, such as a projector. compiled: by blocks that torch compiles,
    which keep fewer tensors. Raises RuntimeError for a model that looks into its tensors, as mixtures of experts do to
    deal out their tokens.
    """

    def count() -> list[int]:
        mode = FakeTensorMode()
        fill_with_nothing(model, mode)
        blocks = base_model_of(model).get_decoder().layers
        with mode, _compiled(blocks) if compiled else nullcontext():
            return [
                _of_decoder(model, rows=rows, length=length, dtype=dtype, inputs_learn=inputs_learn, compiled=compiled)
                for length in lengths
            ]

    # Buffers that adapters keep for reuse are a thread's own: pretended ones go with it.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(count).result()


def _of_decoder(
    model: nn.Module, *, rows: int, length: int, dtype: torch.dtype, inputs_learn: bool, compiled: bool
) -> int:
    text = base_model_of(model).get_decoder()
    blocks = list(text.layers)

    def of_first(count: int) -> int:
        text.layers = nn.ModuleList(blocks[:count])
        size: dict[str, Any] = {"rows": rows, "length": length, "dtype": dtype, "inputs_learn": inputs_learn}
        try:
            if compiled:  # first without a count, which would hold what tracing makes
                pass_once(model, nullcontext(), **size)
            return peak_of(model, **size)
        finally:
            text.layers = nn.ModuleList(blocks)

    if len(blocks) <= 2 * FEW:
        return of_first(len(blocks))
    small, large = of_first(FEW), of_first(2 * FEW)
    return small + round((large - small) / FEW * (len(blocks) - FEW))


def peak_of(model: nn.Module, *, rows: int, length: int, dtype: torch.dtype, inputs_learn: bool) -> int:
    """The same of one size, of all blocks that the model has now, beside weights and gradients; real tensors count,
    too."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in learning if parameter.grad is not None]
    live = LiveBytes([*model.parameters(), *model.buffers(), *gradients])
    pass_once(model, live, rows=rows, length=length, dtype=dtype, inputs_learn=inputs_learn)
    for parameter in learning:
        parameter.grad = None
    return live.peak


def pass_once(
    model: nn.Module,
    watched: AbstractContextManager[Any],
    *,
    rows: int,
    length: int,
    dtype: torch.dtype,
    inputs_learn: bool,
) -> None:
    """There and back through the text model, watched on both ways."""
    base = base_model_of(model)
    laid_end_to_end = base.config.get_text_config()._attn_implementation == SEGMENT_ATTENTION
    shape = (1, rows * length) if laid_end_to_end else (rows, length)
    with watched, _autocast(dtype):
        embedded = base.get_input_embeddings()(torch.zeros(shape, dtype=torch.long))
        if inputs_learn and not embedded.requires_grad:
            embedded.requires_grad_()
        arguments: dict[str, Any] = {"inputs_embeds": embedded, "use_cache": False}
        if laid_end_to_end:  # as `models.decoder.forward_arguments` does it
            arguments |= {"segments": Segments.even(rows, length), "attention_mask": torch.empty(1, 1, 0, 0)}
        hidden = base.get_decoder()(**arguments).last_hidden_state
    if hidden.requires_grad:
        with watched:
            hidden.backward(torch.ones_like(hidden))


@contextmanager
def _compiled(blocks: nn.ModuleList) -> Iterator[None]:
    """Blocks compiled, for as long as this is open, but for speed."""
    try:
        for block in blocks:
            block.compile(backend=CUTS_LIKE_INDUCTOR, dynamic=True)
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None
        torch.compiler.reset()


def drop_as_gpus_do(model: nn.Module) -> None:
    """Let dropout keep a byte for each number, as its kernels for GPUs do; a CPU keeps factors in the input's type."""
    for module in model.modules():
        if type(module) is nn.Dropout and module.p > 0:
            module.forward = partial(_drop, module.p)  # type: ignore[method-assign]


def _drop(share: float, values: Tensor) -> Tensor:
    return torch.native_dropout(values, share, True)[0]


@dataclass(frozen=True)
class Passed:
    """Of images through a vision tower and its projector."""

    peak: int
    """Bytes at once, of a pass there and back alone."""
    kept: int
    """Bytes that wait for the backward pass while the text model is at work."""


def peak_of_tower(model: nn.Module, *, tiles: int, size: tuple[int, int], dtype: torch.dtype) -> Passed:
    """Of `tiles` pieces of images, (3, *size) each. model: as in `peaks_of_decoder`. RuntimeError or TypeError for a
    tower that must see what is in its inputs, such as grids of images."""

    def count() -> Passed:
        mode = FakeTensorMode()
        fill_with_nothing(model, mode)
        with mode:
            live = LiveBytes([*model.parameters(), *model.buffers()])
            with live, _autocast(dtype):
                pixels = torch.zeros(tiles, 3, *size)
                made = base_model_of(model).base_model.get_image_features(pixel_values=pixels, return_dict=True)
                features = made.pooler_output
                del made
            kept = live.now
            if features.requires_grad:
                with live:
                    features.backward(torch.ones_like(features))
        for parameter in model.parameters():
            parameter.grad = None
        return Passed(live.peak, kept)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(count).result()


def _autocast(dtype: torch.dtype) -> AbstractContextManager[Any]:
    return nullcontext() if dtype is torch.float32 else torch.autocast("cpu", dtype=dtype)
