"""Several ranks that share state, gradients or weights by ZeRO: DeepSpeed's own engine, without glue around it.

What learns is float32 with autocast, as under every engine, so DeepSpeed's half precision stays off and its master
copies hold the same numbers. Under stage 3 the model's blocks are gathered as wholes, as fsdp2 does. Gates of a sparse
adapter are kept out of it: a proximal step looks at all of them.
Source of ZeRO: Rajbhandari et al. 2020, arXiv:1910.02054.
"""

import importlib.util
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tunestudy.config.deepspeed import INSTALL, passed_on, zero_stage
from tunestudy.config.errors import StudyError, at
from tunestudy.config.stage import OptimiserSettings
from tunestudy.data.batch import Batch
from tunestudy.models.decoder import base_model_of, blocks_of
from tunestudy.models.quantize import whole_shape
from tunestudy.train.engines import Engine
from tunestudy.train.engines.gates import GatesOfAllRanks
from tunestudy.train.loss import LossModel, LossSums
from tunestudy.train.optim import load_states, make_optimizer
from tunestudy.train.shards import FlatSlice
from tunestudy.train.trainable import Trainable
from tunestudy.train.world import World


class DeepSpeedEngine(Engine):
    """The model of `loss_model`, shared by ZeRO from the call of `optimizer` on."""

    def __init__(self, loss_model: LossModel, world: World, section: Mapping[str, Any]) -> None:
        """section: the stage's `deepspeed`."""
        self._loss_model = loss_model
        self._world = world
        self._section = section
        self._stage = zero_stage(section)
        self._root = _Root(loss_model)
        on_cpu = world.device.type == "cpu"
        self.gather_group = dist.group.WORLD if on_cpu else dist.new_group(backend="gloo")
        self._seen: set[int] = set()
        self._clipped = 1.0
        self._blocks: Sequence[nn.Module] = ()
        self._engine: Any
        self._zero: ZeroOptimizer
        self._gates: GatesOfAllRanks
        self._put_gates_back: list[Callable[[], None]] = []

    def optimizer(self, trainables: Sequence[Trainable], settings: OptimiserSettings) -> torch.optim.Optimizer:
        deepspeed = import_deepspeed(passed_on(self._section).get("log_level", "error"))
        gates = [trainable for trainable in trainables if trainable.is_gate]
        others = [trainable for trainable in trainables if not trainable.is_gate]
        for trainable in others:
            self._note_first_gradient(trainable.parameter)
        if self._stage == 3:
            self._blocks = blocks_of(self._loss_model.model)
            for block in self._blocks:
                vars(block)["_z3_leaf"] = True  # what deepspeed.utils.set_z3_leaf_modules sets, by class only
            let_inputs_have_gradients(self._loss_model.model)
        self._put_gates_back = take_out_gates(self._root, [gate.parameter for gate in gates])
        config, inner = config_of(self._section), make_optimizer(others, settings)
        if self._stage == 3:  # cut one at a time: left to `initialize`, the whole model would be moved before
            deepspeed.zero.Init(module=self._root, config_dict_or_path=config)
            for buffer in self._root.buffers():
                buffer.data = buffer.data.to(self._world.device)
        self._engine, zero, _, _ = deepspeed.initialize(
            model=self._root, optimizer=inner, config=config, dist_init_required=False
        )
        for gate in gates:
            gate.parameter.data = gate.parameter.data.to(self._world.device)
        if self._stage == 3:
            for parameter in outside_of_blocks(self._loss_model.model):
                deepspeed.zero.register_external_parameter(self._root, parameter)
        self._gates = GatesOfAllRanks(self._world, [gate.parameter for gate in gates])
        self._zero = ZeroOptimizer(self._engine, zero, others, make_optimizer(gates, settings) if gates else None)
        return self._zero

    def losses(self, batch: Batch, *, label_smoothing: float, num_sources: int) -> LossSums:
        self._root.take_over_autocast(self._world.device.type)  # DeepSpeed's forward switches it off
        nll_sum = self._engine(batch, label_smoothing=label_smoothing, num_sources=num_sources)
        return self._root.with_gradient(nll_sum)

    def evaluated(self, batch: Batch, *, num_sources: int) -> LossSums:
        self._root.take_over_autocast(self._world.device.type)
        return self._root.with_gradient(self._root(batch, num_sources=num_sources))

    def between_gatherings(self) -> Sequence[nn.Module]:
        return self._blocks

    @contextmanager
    def accumulating(self, *, last: bool) -> Iterator[None]:
        self._engine.set_gradient_accumulation_boundary(last)
        yield
        if last:
            self._gates.add_up()

    def backward(self, nll_sum: Tensor, *, denominator: int, scale: Tensor | float) -> None:
        self._engine.backward(nll_sum * (scale * self._world.size / denominator), scale_wrt_gas=False)

    def clip(self, trainables: Sequence[Trainable], max_norm: float | None) -> float:
        """DeepSpeed scales its gradients in its step; gates, of which it does not know, are scaled here."""
        gates = [t.parameter.grad for t in trainables if t.is_gate and t.parameter.grad is not None]
        of_zero = self._zero.norm()
        norm = math.hypot(of_zero, float(nn.utils.get_total_norm(gates)) if gates else 0.0)
        if not math.isfinite(norm):
            raise FloatingPointError("gradients are not finite: DeepSpeed would leave the step out without a word")
        self._clipped = min(1.0, max_norm / (norm + 1e-6)) if max_norm is not None else 1.0
        self._zero.scale_by(self._clipped, norm=of_zero)
        if self._clipped < 1.0 and gates:
            torch._foreach_mul_(gates, self._clipped)
        return norm

    def has_gradient(self, parameter: nn.Parameter) -> bool:
        return id(parameter) in self._seen or parameter.grad is not None

    def gradient(self, parameter: nn.Parameter) -> Tensor | None:
        from deepspeed.utils import safe_get_full_grad

        if not self._zero.moves(parameter):
            return parameter.grad
        whole = safe_get_full_grad(parameter)
        return None if whole is None else whole * self._clipped

    def value(self, parameter: nn.Parameter) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param

        whole: Tensor = safe_get_full_fp32_param(parameter) if self._zero.moves(parameter) else parameter.detach()
        return whole

    def finish(self) -> None:
        for put_back in self._put_gates_back:
            put_back()

    def close(self) -> None:
        """DeepSpeed's hooks, and a stack of modules that it keeps, would hold the model's memory for ever."""
        from deepspeed.runtime.zero import parameter_offload

        self._engine.destroy()
        parameter_offload.FWD_MODULE_STACK.clear()

    def _note_first_gradient(self, parameter: nn.Parameter) -> None:
        """ZeRO takes gradients away as they come, so whether there was one is noted before."""

        def note(gradient: Tensor) -> Tensor:
            self._seen.add(id(parameter))
            handle.remove()
            return gradient

        handle = parameter.register_hook(note)  # type: ignore[no-untyped-call]


class _Root(nn.Module):
    """What DeepSpeed wraps: its hooks look for a tensor in what a module returns."""

    def __init__(self, loss_model: LossModel) -> None:
        super().__init__()
        self.loss_model = loss_model
        self._sums: LossSums | None = None
        self._autocast: dict[str, Any] = {"device_type": "cpu", "enabled": False}

    def take_over_autocast(self, kind: str) -> None:
        """What holds at the call of the engine holds inside."""
        enabled = torch.is_autocast_enabled(kind)
        self._autocast = {"device_type": kind, "enabled": enabled, "dtype": torch.get_autocast_dtype(kind)}

    def forward(self, batch: Batch, **options: Any) -> Tensor:
        with torch.autocast(**self._autocast):
            sums: LossSums = self.loss_model(batch, **options)
        self._sums = sums
        return sums.nll_sum

    def with_gradient(self, nll_sum: Tensor) -> LossSums:
        """All sums of the last forward pass, `nll_sum` with what hooks put around it."""
        sums, self._sums = self._sums, None
        assert sums is not None, "no forward pass before"
        return replace(sums, nll_sum=nll_sum)


@dataclass(frozen=True)
class _Place:
    """Where a parameter's numbers lie on this rank."""

    flat: Tensor
    """The master copy of a group of parameters, of which this rank's part begins at `offset`."""
    offset: int
    count: int
    first: int
    """The number of the parameter that this rank's part begins with."""

    def slice_of(self, flat: Tensor, shape: torch.Size) -> FlatSlice:
        """The parameter's part of the master copy, or of a state of the same size."""
        return FlatSlice(part=flat.detach()[self.offset : self.offset + self.count], first=self.first, shape=shape)


class ZeroOptimizer(torch.optim.Optimizer):
    """ZeRO's optimiser and the gates' beside it, as one whose state is known by parameter."""

    def __init__(
        self, engine: Any, zero: Any, trainables: Sequence[Trainable], of_gates: torch.optim.Optimizer | None
    ) -> None:
        self._engine, self._zero, self._of_gates = engine, zero, of_gates
        self._trainables = {id(trainable.parameter): trainable for trainable in trainables}
        groups = getattr(zero, "bit16_groups", ())  # under stage 3 a parameter knows its place itself
        self._groups = {id(parameter): index for index, group in enumerate(groups) for parameter in group}

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """ZeRO's groups, whose parameters are its own, then those of the gates."""
        return [*self._zero.optimizer.param_groups, *(self._of_gates.param_groups if self._of_gates else ())]

    @property
    def state(self) -> Mapping[Any, Any]:  # type: ignore[override]
        """Parameter → name of a state → this rank's slice of it, or a number; made when it is asked for."""
        return _States(self)

    def state_of(self, parameter: nn.Parameter) -> Mapping[str, Any]:
        """Empty before the first step."""
        if not self.moves(parameter):
            return self._of_gates.state.get(parameter, {}) if self._of_gates else {}
        place, shape = self._place(parameter), whole_shape(parameter)
        return {
            key: place.slice_of(value, shape) if value.shape == place.flat.shape else value
            for key, value in self._zero.optimizer.state.get(place.flat, {}).items()
        }

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The model's, gates last."""
        gates = [gate for group in (self._of_gates.param_groups if self._of_gates else ()) for gate in group["params"]]
        return [*(trainable.parameter for trainable in self._trainables.values()), *gates]

    def moves(self, parameter: nn.Parameter) -> bool:
        """Whether it is ZeRO's, not a gate."""
        return id(parameter) in self._trainables

    def norm(self) -> float:
        """2-norm of ZeRO's gradients, equal on all ranks; not finite where one of them is not."""
        from deepspeed.runtime.utils import combine_grad_norm_groups

        zero = self._zero
        norms = zero._get_norm_groups() if hasattr(zero, "_get_norm_groups") else None  # stage 3
        norm = float(zero.scaled_global_norm() if norms is None else combine_grad_norm_groups(norms))
        return norm if norm >= 0 else math.inf  # DeepSpeed writes -1 for a norm that is no number

    def scale_by(self, share: float, *, norm: float) -> None:
        """Have the next step multiply gradients of this norm by `share`, at most 1.

        DeepSpeed multiplies by clip_grad ÷ norm.
        """
        self._zero.clip_grad = 0.0 if share >= 1.0 else share * (norm + 1e-6)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002 - torch's signature
        self._engine.step()
        if self._of_gates is not None:
            self._of_gates.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._zero.zero_grad(set_to_none=set_to_none)
        if self._of_gates is not None:
            self._of_gates.zero_grad(set_to_none=set_to_none)

    def load_named(self, states: Mapping[str, Mapping[str, Tensor]], trainables: Sequence[Trainable]) -> None:
        """The weights that are in the model now become the master copies."""
        self._zero.refresh_fp32_params()
        if hasattr(self._zero, "invalidate_secondary_tensor"):  # zero_hpz_partition_size: a host's own cut of weights
            self._zero.invalidate_secondary_tensor()
        if self._of_gates is not None:
            gates = [trainable for trainable in trainables if not self.moves(trainable.parameter)]
            load_states(self._of_gates, states, gates)
        inner = self._zero.optimizer
        for trainable in self._trainables.values():
            place = self._place(trainable.parameter)
            of_flat, shape = inner.state[place.flat], whole_shape(trainable.parameter)
            for key, value in states.get(trainable.name, {}).items():
                if value.shape == shape and key != "step":
                    of_flat.setdefault(key, torch.zeros_like(place.flat.detach()))
                    place.slice_of(of_flat[key], shape).put(value)
                else:
                    of_flat[key] = value.to(place.flat.device if inner.defaults.get("fused") else value.device)

    def _place(self, parameter: Any) -> _Place:
        if hasattr(parameter, "ds_tensor"):
            index, offset, padded = self._zero.grad_position[self._zero.get_param_id(parameter)]
            first = min(dist.get_rank(parameter.ds_process_group) * padded, parameter.ds_numel)
            count = min(padded, parameter.ds_numel - first)
            return _Place(self._zero.fp32_partitioned_groups_flat[index], offset, count, first)
        flat = self._zero.single_partition_of_fp32_groups[self._groups[id(parameter)]]
        mapping = parameter._hp_mapping
        if mapping is None:  # another rank holds all of it
            return _Place(flat, 0, 0, 0)
        here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
        return _Place(flat, here.start, here.numel, there.start)


class _States(Mapping[nn.Parameter, Mapping[str, Any]]):
    """A `ZeroOptimizer`'s states, of which few are asked for at a time."""

    def __init__(self, optimizer: ZeroOptimizer) -> None:
        self._optimizer = optimizer

    def __getitem__(self, parameter: nn.Parameter) -> Mapping[str, Any]:
        return self._optimizer.state_of(parameter)

    def __iter__(self) -> Iterator[nn.Parameter]:
        return iter(self._optimizer.parameters)

    def __len__(self) -> int:
        return len(self._optimizer.parameters)


def import_deepspeed(log_level: str) -> Any:
    """The package, which prints a page of what it does unless told not to."""
    if importlib.util.find_spec("deepspeed") is None:
        raise StudyError(at("engine"), f"deepspeed is not installed; {INSTALL}")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ["DS_LOG_LEVEL"] = log_level
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(log_level.upper())
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would first be compiled; gloo adds up on the CPU
    return deepspeed


def config_of(section: Mapping[str, Any]) -> dict[str, Any]:
    """DeepSpeed's configuration: what the study passes on, and what this engine relies on.

    Batches are cut by tunestudy, which says which micro-batch is a step's last, and clips by setting `clip_grad`
    before each step: one micro-batch of one is what DeepSpeed is told.
    """
    return {
        **passed_on(section),
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def outside_of_blocks(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that no block holds, such as the head's, which the loss uses without calling its module."""
    inside = {id(parameter) for block in blocks_of(model) for parameter in block.parameters()}
    return [parameter for parameter in model.parameters() if id(parameter) not in inside]


def let_inputs_have_gradients(model: Any) -> None:
    """A block's gradients are sent when the gradient of its input is there, so the first block's input needs one."""

    def require(_module: nn.Module, _args: Any, embedded: Tensor) -> Tensor:
        return embedded.requires_grad_() if torch.is_grad_enabled() and embedded.is_leaf else embedded

    base_model_of(model).get_input_embeddings().register_forward_hook(require)


def take_out_gates(model: nn.Module, gates: Sequence[nn.Parameter]) -> list[Callable[[], None]]:
    """Hang gates beside their layers as plain dictionaries, where layers find them and DeepSpeed does not.

    Returns what puts them back.
    """
    wanted = {id(gate) for gate in gates}
    back: list[Callable[[], None]] = []
    for layer in model.modules():
        for name, holder in list(layer._modules.items()):
            if isinstance(holder, nn.ParameterDict) and any(id(gate) in wanted for gate in holder.values()):
                del layer._modules[name]
                vars(layer)[name] = dict(holder.items())
                back.append(partial(_put_back, layer, name, holder))
    return back


def _put_back(layer: nn.Module, name: str, holder: nn.ParameterDict) -> None:
    del vars(layer)[name]
    layer._modules[name] = holder
