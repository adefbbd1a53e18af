"""Merges and mixtures that cannot be, or would mean nothing, found before anything is trained."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from tunestudy.config.adapter import RESERVED, MoleAdapter, MoleExpert
from tunestudy.config.deepspeed import zero_stage
from tunestudy.config.merge import BASE, STUDY_MODEL, TASK_VECTORS, MergeStage, Weights
from tunestudy.config.paths import located
from tunestudy.config.stage import AnyStage, TrainStage, inputs_of
from tunestudy.config.study import Study
from tunestudy.study.lineage import Left, descends, lineage
from tunestudy.study.nearest import did_you_mean
from tunestudy.study.problems import Mistake
from tunestudy.study.source import KeyPath
from tunestudy.study.weights import folder_mistake

_OF_PEFT = ("linear", "adapter")
"""What PEFT has beside methods on differences: the sum of adapters."""

OUTSIDE = ("lm_head", "embed_tokens")
"""Endings of modules that are in no decoder block of any model."""


def merge_mistakes(stages: Mapping[str, AnyStage], folder: Path) -> Iterator[Mistake]:
    """What is wrong with merges and experts of a variant, its stages in order with `init` explicit; paths begin with a
    stage.

    folder: where relative paths start.
    """
    if not any(inputs_of(stage) for stage in stages.values()):
        return
    left = lineage(stages)
    earlier: list[str] = []
    for name, stage in stages.items():
        unknown = list(_unknown_names(stage, earlier, list(stages)))
        yield from (Mistake((name, *path), message) for path, message in (*unknown, *_folders(stage, folder)))
        if not unknown:
            found = _of_merge(stage, left) if isinstance(stage, MergeStage) else _of_experts(stage, left[name], left)
            yield from (Mistake((name, *path), message) for path, message in found)
        earlier.append(name)


def merge_warnings(study: Study) -> list[str]:
    """One line for each merge or mixture that is allowed and probably not what is meant."""
    told: dict[str, None] = {}
    for variant in study.variants.values():
        left: dict[str, Left] = {}
        for name, stage in variant.stages.items():
            if isinstance(stage, TrainStage):
                told |= dict.fromkeys(f"`{name}`: {line}" for line in _blind_gates(stage))
            else:
                left = left or lineage(variant.stages)
                told |= dict.fromkeys(f"`{name}`: {line}" for line in _doubtful(stage, left))
    return list(told)


def _blind_gates(stage: TrainStage) -> Iterator[str]:
    if isinstance(stage.adapter, MoleAdapter) and stage.adapter.top_k == 1:
        yield (
            "with top_k: 1 the one share is always 1, so that the loss tells gates nothing and the balance loss alone "
            "moves them; use 2 or more"
        )


def where_of(stage: AnyStage, name: str) -> KeyPath:
    """The place of an input inside its stage."""
    if isinstance(stage, MergeStage):
        return ("base",) if name == BASE else ("models", name)
    return ("adapter", "experts", name)


def _unknown_names(stage: AnyStage, earlier: list[str], all_stages: list[str]) -> Iterator[Mistake]:
    for name, one in inputs_of(stage).items():
        if one.stage is None or one.stage == STUDY_MODEL or one.stage in earlier:
            continue
        if one.stage in all_stages:
            cure = "it does not come before this one; put it further ahead in the variant's `stages:`"
        elif "/" in one.stage:
            cure = "a folder is written `{path: …}`"
        else:
            known = did_you_mean(one.stage, (*earlier, STUDY_MODEL))
            cure = f"{known}{'' if known.endswith('?') else '.'} Stages of other variants are reached by `from:`"
        yield Mistake(
            (*where_of(stage, name), "stage"), f"there is no earlier stage `{one.stage}` in this variant; {cure}"
        )


def _folders(stage: AnyStage, folder: Path) -> Iterator[Mistake]:
    adapters_only = isinstance(stage, MergeStage) and stage.into == "adapter"
    for name, one in inputs_of(stage).items():
        if one.path is None:
            continue
        needs_adapter = (adapters_only and name != BASE) or (isinstance(one, MoleExpert) and one.use == "factors")
        if message := folder_mistake(located(folder, one.path), one.path, needs_adapter=needs_adapter):
            yield Mistake((*where_of(stage, name), "path"), message)


def _of_merge(stage: MergeStage, left: Mapping[str, Left]) -> Iterator[Mistake]:
    yield from _same_twice(stage)
    for name, origin in _stages_of(stage.inputs):
        if origin in left and (message := _no_weights_of_its_own(origin, left[origin])):
            yield Mistake(where_of(stage, name), message)
    yield from _family(stage, left)
    if stage.compat == "peft" and stage.method not in TASK_VECTORS and (stage.method, stage.into) != _OF_PEFT:
        yield Mistake(("compat",), f"PEFT has no {stage.method} of models; use paper or mergekit")
    yield from _without_meaning(stage)
    if stage.into == "adapter":
        yield from _into_adapter(stage, left)


def _without_meaning(stage: MergeStage) -> Iterator[Mistake]:
    """Options that the method, or whose definition it is, would leave unused."""
    if stage.scale != 1 and stage.method not in TASK_VECTORS:
        own = "the models' weights" if stage.method == "linear" else "t"
        yield Mistake(("scale",), f"is of methods that add up differences to a base; {stage.method} has {own}")
    if stage.method == "slerp":
        if stage.normalize is not None:
            yield Mistake(("normalize",), "slerp divides by no weights; leave it out")
        for name, one in stage.models.items():
            if one.weight != 1 or one.weights:
                yield Mistake(("models", name), "slerp has no weights: `t` says how far it goes to the second model")
    if _divides_by_all(stage) and math.fsum(one.weight for one in stage.models.values()) == 0:
        yield Mistake(
            ("models",), f"the weights sum up to 0, and {stage.method} divides by their sum; set normalize: false"
        )
    if stage.compat == "peft" and stage.normalize is not None:
        yield Mistake(("normalize",), "PEFT's merges have no such option; leave it out, or use compat: paper")
    if stage.into == "adapter":
        yield from _not_of_adapters(stage)


def _divides_by_all(stage: MergeStage) -> bool:
    """Whether every tensor is divided by the sum of `weight`; with weights by role it depends on the models' roles."""
    if stage.method in ("ties", "dare_ties", "slerp") or any(one.weights for one in stage.models.values()):
        return False
    return stage.normalize or (stage.normalize is None and stage.method == "linear" and stage.compat != "peft")


def _not_of_adapters(stage: MergeStage) -> Iterator[Mistake]:
    if stage.method == "slerp":
        yield Mistake(("method",), "slerp's arc lies between whole weights, which no low rank holds; use `into: model`")
    if stage.compat == "mergekit":
        yield Mistake(("compat",), "mergekit merges no adapters; use paper or peft, or `into: model`")
    if stage.compat == "peft" and stage.method == "task_arithmetic":
        yield Mistake(("method",), "PEFT's add_weighted_adapter has no task_arithmetic; use linear, or compat: paper")
    if stage.compat == "peft" and stage.result_rank is not None:
        yield Mistake(("result_rank",), "compat: peft keeps the adapters' own rank; leave it out")


def _same_twice(stage: MergeStage) -> Iterator[Mistake]:
    seen: dict[tuple[str | None, str | None], str] = {}
    base = None if stage.base is None else (stage.base.stage, stage.base.path)
    for name, one in stage.models.items():
        origin = (one.stage, one.path)
        if origin == base:
            yield Mistake(where_of(stage, name), f"`{_called(one)}` is the base itself: its difference would be empty")
        elif origin in seen:
            cure = "give that one a larger weight instead"
            yield Mistake(where_of(stage, name), f"`{_called(one)}` is `{seen[origin]}` already; {cure}")
        seen[origin] = name


def _no_weights_of_its_own(name: str, left: Left) -> str | None:
    """Why a stage's result is no model and no adapter to be merged."""
    if left.kind == "world":
        return f"`{name}` leaves a world part, which belongs to the model that it was trained with; it cannot be merged"
    if left.kind == "mole":
        return f"`{name}` leaves a mixture whose gates see their input; it is no sum of weights"
    if left.few_bits:
        return (
            f"`{name}` was trained on weights in few bits (quantization) and makes up for what those lost; merge "
            "adapters of a base in full"
        )
    return None


def _family(stage: MergeStage, left: Mapping[str, Left]) -> Iterator[Mistake]:
    """Models that do not come from the base, or come from one another."""
    if stage.method not in TASK_VECTORS:
        return
    base = stage.base.stage if stage.base is not None else None
    for name, origin in _stages_of(stage.models):
        if origin not in left:
            continue
        if base is not None and origin != base and not descends(origin, base, left):
            yield Mistake(where_of(stage, name), _stranger(stage, origin, base, left))
        others = [one for other, one in _stages_of(stage.models) if other != name and one not in (STUDY_MODEL, base)]
        parent = next((one for one in others if descends(origin, one, left)), None)
        if parent is not None and not stage.allow_descendants:
            yield Mistake(
                where_of(stage, name),
                f"`{origin}` was trained from `{parent}`, so its difference to the base holds that of `{parent}` as "
                f"well, and the two are no independent votes; let both start from the base (`after: {base or '…'}`), "
                "or say `allow_descendants: true` if it is meant",
            )


def _stranger(stage: MergeStage, name: str, base: str, left: Mapping[str, Left]) -> str:
    common = _common(stage, left)
    shared = common or STUDY_MODEL
    if base in (one.stage for one in stage.models.values()) or shared == base:
        cure = f"start it there: `after: {base}`"
    else:
        cure = f"all models come from `{shared}`: name that as base, or start this one there (`after: {base}`)"
    return f"`{name}` was not trained from the base `{base}`: their difference is no training; {cure}"


def _common(stage: MergeStage, left: Mapping[str, Left]) -> str | None:
    """The nearest stage that all models were trained from, themselves apart."""
    lines = [left[origin].ancestors for _, origin in _stages_of(stage.models) if origin in left]
    if not lines:
        return None
    shared = [name for name in lines[0] if all(name in line for line in lines[1:])]
    return shared[-1] if shared else None


def _doubtful(stage: MergeStage, left: Mapping[str, Left]) -> Iterator[str]:
    named = [one.stage or "" for one in stage.models.values()]
    base = stage.base.stage if stage.base is not None else None
    common = _common(stage, left) if all(name in left for name in named) else None
    if stage.method in TASK_VECTORS and len(named) > 1 and common and base not in (None, common):
        yield (
            f"all its models were trained from `{common}`, whose training is therefore in each difference to `{base}`; "
            f"`base: {common}` leaves what each learnt by itself"
        )
    if stage.method in TASK_VECTORS:
        return
    for one in named:
        parent = next((other for other in named if one in left and other in left[one].ancestors), None)
        if parent is not None:
            yield f"`{one}` was trained from `{parent}`: between the two, a merge goes back part of that way"


def _into_adapter(stage: MergeStage, left: Mapping[str, Left]) -> Iterator[Mistake]:
    """Adapters of one whole model: what their sum is laid over must be known."""
    if stage.base is not None and stage.base.path is not None:
        yield Mistake(("base",), "`into: adapter` leaves an adapter of a stage or of `model`, not of a folder")
        return
    base = stage.base.stage if stage.base is not None else STUDY_MODEL
    if base is not None and base in left and left[base].kind != "model":
        yield Mistake(("base",), f"`{base}` leaves an adapter itself; one adapter of several sits on a whole model")
        return
    for name, origin in _stages_of(stage.models):
        where = where_of(stage, name)
        if origin not in left or left[origin].kind not in ("lora", "sora"):
            what = _words(left[origin].kind) if origin in left else "the study's model"
            yield Mistake(
                where, f"`{origin}` is {what}, and `into: adapter` puts LoRA adapters together; use `into: model`"
            )
        elif (below := left[origin].below) is None:
            yield Mistake(
                where, f"`{origin}` sits on another adapter and is part of a difference only; use `into: model`"
            )
        elif below != base:
            cure = f"set `base: {below}`" if stage.base is None else "adapters of different bases have no sum"
            yield Mistake(where, f"`{origin}` is an adapter of `{below}`, not of `{base}`; {cure}")


def _words(kind: str) -> str:
    if kind == "model":
        return "a whole model"
    return {"dora": "a DoRA", "sdora": "an SDoRA"}.get(kind, f"a {kind}") + ", whose magnitudes do not add up"


def _of_experts(stage: TrainStage, own: Left, left: Mapping[str, Left]) -> Iterator[Mistake]:
    if not isinstance(stage.adapter, MoleAdapter):
        return
    start = own.start or STUDY_MODEL
    seen: dict[tuple[str, str], str] = {}
    for name, expert in stage.adapter.experts.items():
        if expert is None or expert.stage is None:
            continue
        where, origin = where_of(stage, name), expert.stage
        kind = left[origin].kind if origin in left else "model"
        if origin == start and expert.use == "difference":
            yield Mistake(
                where, f"`{start}` is what this stage starts from: its difference is empty; write `{name}: null`"
            )
        elif (twin := seen.setdefault((origin, expert.use), name)) != name:
            yield Mistake(where, f"`{origin}` is `{twin}` already: gates cannot tell the two apart; leave one out")
        elif origin in left and (message := _no_weights_of_its_own(origin, left[origin])):
            yield Mistake(where, message)
        elif expert.use == "factors" and kind not in ("lora", "sora"):
            cure = "`use: difference` cuts a whole model's difference to factors"
            yield Mistake(where, f"`{origin}` leaves no LoRA whose factors could be used; {cure}")


def mole_mistakes(stage: TrainStage) -> Iterator[Mistake]:
    """What a mixture of experts cannot be combined with, and names that its experts cannot have."""
    if not isinstance(stage.adapter, MoleAdapter):
        return
    for name in stage.adapter.experts:
        if message := _no_column(name):
            yield Mistake(("adapter", "experts", name), message)
    yield from _outside_of_blocks(stage.adapter)
    if stage.train not in (None, "none"):
        yield Mistake(("train",), "a mixture's result holds its gates and experts alone; leave train out beside it")
    if stage.torch_compile:
        yield Mistake(
            ("torch_compile",), "gates of a mixture are told of each batch anew, which compiling would repeat"
        )
    if stage.save_merged and stage.adapter.gate != "layer":
        yield Mistake(
            ("save_merged",),
            "gates that read the tokens cannot be folded into weights; leave it out, or use gate: layer",
        )
    adapter = stage.adapter
    if adapter.top_k == 1 and (adapter.balance == "none" or adapter.balance_coefficient == 0):
        yield Mistake(
            ("adapter", "top_k"),
            "of one expert alone the share is always 1, so that no gate would learn anything; use 2 or more",
        )
    if stage.quantization is not None:
        yield Mistake(("quantization",), "experts are laid over weights in full; leave it out for this stage")
    if stage.engine == "fsdp2" or (stage.engine == "deepspeed" and zero_stage(stage.deepspeed) == 3):
        what = "fsdp2" if stage.engine == "fsdp2" else "ZeRO stage 3"
        yield Mistake(
            ("engine",), f"{what} cannot slice a mixture of experts yet; use ddp, or deepspeed with ZeRO up to stage 2"
        )


def _outside_of_blocks(adapter: MoleAdapter) -> Iterator[Mistake]:
    """Layers that are known by their names to have no gate above them."""
    roles = (adapter.target,) if isinstance(adapter.target, str) else adapter.target or ()
    modules = adapter.target_modules if isinstance(adapter.target_modules, tuple) else ()
    why = "outside of the decoder's blocks, whose inputs gates read"
    for role in roles:
        if role not in ("language_model", "router"):
            yield Mistake(("adapter", "target"), f"{role} lies {why}; use target: language_model")
    for name in modules:
        if name.rpartition(".")[2] in OUTSIDE:
            yield Mistake(("adapter", "target_modules"), f"{name} lies {why}; leave it out")


def _no_column(name: str) -> str | None:
    """Why mole_log.csv cannot have a column of this name beside its own."""
    if name in RESERVED:
        return "is the name of another column of mole_log.csv; use another"
    if not name.strip() or name != name.strip() or not name.isprintable():
        return (
            "names a column of mole_log.csv: it may not be empty, nor begin or end with a space, nor hold line breaks"
        )
    return None


def _stages_of(given: Mapping[str, Weights]) -> Iterator[tuple[str, str]]:
    """Name and stage of the inputs that are results of stages, or the study's model."""
    return ((name, one.stage) for name, one in given.items() if one.stage is not None)


def _called(one: Weights) -> str:
    return one.stage or str(one.path)
