"""What is known of a merge before it happens: how far each model is from the base, and how the models' differences lie
to each other, by role.

One pass over the inputs, in parts that stay in a core's cache. A part is summed up in float32, the parts in float64 and
in a fixed order, so that numbers do not depend on threads.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.merge import TASK_VECTORS, MergeStage
from tunestudy.merge.source import FLOATS, FolderSource, Inputs, Source
from tunestudy.models.roles import role_of

PART = 1 << 16
"""Values that are looked at together: a quarter of a MiB in float32."""
TASK = 64 * PART
"""Values that a thread works on before it takes the next piece."""
NEAR = 0.05
"""How close a cosine must come to the ratio of two norms to look as if one model was trained from the other."""
LEAST_COSINE = 0.1
"""Below, two differences share too little to tell."""

Sums = NDArray[np.float64]


@dataclass(frozen=True)
class Piece:
    """Values `start` to `stop` of one tensor."""

    name: str
    start: int
    stop: int


@dataclass
class RoleSums:
    """Sums over a role's values. M models, P pairs of them."""

    tensors: int = 0
    values: int = 0
    base: float = 0.0
    """Σ of squares of the base."""
    zeros: Sums = field(default_factory=lambda: np.zeros(0))
    """(M,) differences that are exactly zero."""
    squares: Sums = field(default_factory=lambda: np.zeros(0))
    """(M,)"""
    products: Sums = field(default_factory=lambda: np.zeros(0))
    """(P,)"""
    conflicts: Sums = field(default_factory=lambda: np.zeros(0))
    """(P,) values whose differences point apart."""
    both: Sums = field(default_factory=lambda: np.zeros(0))
    """(P,) values that both models changed."""


def survey(
    inputs: Inputs,
    settings: MergeStage,
    stage: str,
    *,
    threads: int,
    stop: Callable[[], bool],
    note: Callable[[float], None] | None = None,
) -> dict[str, Any] | None:
    """{"roles": {role: …}, "warnings": [str]} as merge_report.json holds them; None when asked to stop.

    Without a base, cosines are those of the weights and nothing else is told. Raises StudyError for a model that is
    the base itself, when differences are merged, and for values that are no finite numbers.
    """
    names = list(inputs.models)
    sums = _summed(inputs, stage, threads, stop, note)
    if sums is None:
        return None
    has_base = inputs.base is not None
    warnings = []
    if has_base and sums:
        warnings = _check_differences(names, list(sums.values()), settings, stage)
    return {"roles": {role: _told(names, one, has_base) for role, one in sums.items()}, "warnings": warnings}


def _summed(
    inputs: Inputs, stage: str, threads: int, stop: Callable[[], bool], note: Callable[[float], None] | None
) -> dict[str, RoleSums] | None:
    pieces = list(_pieces(inputs))
    total, done = sum(piece.stop - piece.start for piece in pieces) or 1, 0
    found: dict[str, RoleSums] = {}
    one_thread_each = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, thread_name_prefix="survey") as pool:
            looks = pool.map(lambda piece: None if stop() else _look(piece, inputs, stage), pieces)
            for piece, sums in zip(pieces, looks, strict=True):
                if sums is None:
                    return None
                _add(found.setdefault(role_of(piece.name), RoleSums()), piece, sums)
                done += piece.stop - piece.start
                if note is not None:
                    note(done / total)
    finally:
        torch.set_num_threads(one_thread_each)
    return found


def _pieces(inputs: Inputs) -> Iterator[Piece]:
    """Of all tensors of floating point that every input has."""
    for name, info in inputs.first.tensors.items():
        if info.dtype in FLOATS and all(name in source.tensors for source in inputs.models.values()):
            for start in range(0, info.num_values, TASK):
                yield Piece(name, start, min(start + TASK, info.num_values))


def _look(piece: Piece, inputs: Inputs, stage: str) -> RoleSums:
    """The sums of one piece."""
    sources = list(inputs.models.values())
    num_pairs = len(sources) * (len(sources) - 1) // 2
    zeros, squares = np.zeros(len(sources)), np.zeros(len(sources))
    products, conflicts, both = (np.zeros(num_pairs) for _ in range(3))
    base = 0.0
    product = torch.empty(PART)
    for start in range(piece.start, piece.stop, PART):
        stop = min(start + PART, piece.stop)
        below = None if inputs.base is None else inputs.base.read(piece.name, start, stop).to(torch.float32)
        base += 0.0 if below is None else _square(below)
        changes = [_change(below, inputs.base, source, piece.name, start, stop) for source in sources]
        for number, change in enumerate(changes):
            zeros[number] += stop - start if change is None else _count_zeros(change, below)
            squares[number] += 0.0 if change is None else _square(change)
        for pair, (one, other) in enumerate(combinations(changes, 2)):
            if one is None or other is None:
                continue
            products[pair] += _product(one, other)
            if below is not None:
                signs = torch.mul(one, other, out=product[: stop - start]).numpy()
                both[pair] += stop - start - np.count_nonzero(signs == 0)
                conflicts[pair] += np.count_nonzero(signs < 0)
    if not (math.isfinite(base) and np.isfinite(squares).all()):
        _refuse_infinite(piece, inputs, stage)
    return RoleSums(1, piece.stop - piece.start, base, zeros, squares, products, conflicts, both)


def _change(
    below: Tensor | None, base: Source | None, source: Source, name: str, start: int, stop: int
) -> Tensor | None:
    """(stop − start,) fp32 difference to the base, or without one the weights; None for a tensor left as it is.

    below: the base's values, which a folder needs not be asked to read again.
    """
    if base is None or below is None:
        return source.read(name, start, stop).to(torch.float32)
    if isinstance(source, FolderSource):
        own = source.read(name, start, stop)
        return own.sub_(below) if own.dtype is torch.float32 else own.to(torch.float32).sub_(below)
    return None if source.is_untouched(name) else source.difference(base, name, start, stop)


def _count_zeros(change: Tensor, below: Tensor | None) -> int:
    """NumPy counts several times faster than torch; without a base nobody asks."""
    return 0 if below is None else int(np.count_nonzero(change.numpy() == 0))


def _square(values: Tensor) -> float:
    return _product(values, values)


def _product(one: Tensor, other: Tensor) -> float:
    """Of huge values in float64, whose range holds any float32's square."""
    found = float(torch.dot(one, other))
    return found if math.isfinite(found) else float(torch.dot(one.to(torch.float64), other.to(torch.float64)))


def _refuse_infinite(piece: Piece, inputs: Inputs, stage: str) -> None:
    """Name the input whose values are not finite, or say that a difference is not."""
    sources = {**inputs.models, **({} if inputs.base is None else {"base": inputs.base})}
    for name, source in sources.items():
        if not torch.isfinite(source.read(piece.name, piece.start, piece.stop)).all():
            message = f"`{name}` holds values that are no finite numbers, in {piece.name}; it was trained to no end"
            raise StudyError(at(f"stages.{stage}.models"), message, exit_code=Exit.PREFLIGHT_REFUSED)
    message = f"differences in {piece.name} are beyond what float32 holds; one of the models is broken"
    raise StudyError(at(f"stages.{stage}.models"), message, exit_code=Exit.PREFLIGHT_REFUSED)


def _add(total: RoleSums, piece: Piece, new: RoleSums) -> None:
    total.tensors += piece.start == 0
    total.values += new.values
    total.base += new.base
    for name in ("zeros", "squares", "products", "conflicts", "both"):
        before = getattr(total, name)
        setattr(total, name, getattr(new, name) + (before if len(before) else 0.0))


def _told(names: Sequence[str], sums: RoleSums, has_base: bool) -> dict[str, Any]:
    """One role of the report. Pairs of which a difference is empty have no cosine."""
    norms = np.sqrt(sums.squares)
    base = math.sqrt(sums.base)
    models = {
        name: {
            "zero_share": float(sums.zeros[number] / sums.values),
            "norm": float(norms[number]),
            "relative_norm": float(norms[number] / base) if base else None,
        }
        for number, name in enumerate(names)
    }
    pairs = [f"{names[one]}|{names[other]}" for one, other in combinations(range(len(names)), 2)]
    conflicts = {
        pair: float(sums.conflicts[number] / sums.both[number])
        for number, pair in enumerate(pairs)
        if sums.both[number]
    }
    cosines = {pair: cosine for pair, cosine in zip(pairs, _cosines(sums), strict=True) if cosine is not None}
    return {
        "tensors": sums.tensors,
        "parameters": sums.values,
        "models": models if has_base else {},
        "cosine": cosines,
        "sign_conflict": conflicts if has_base else {},
    }


def _cosines(sums: RoleSums) -> list[float | None]:
    """Of all pairs; None where a difference is empty. At most 1 whatever rounding says."""
    norms = np.sqrt(sums.squares)
    found: list[float | None] = []
    for number, (one, other) in enumerate(combinations(range(len(norms)), 2)):
        length = norms[one] * norms[other]
        found.append(float(np.clip(sums.products[number] / length, -1, 1)) if length else None)
    return found


def _check_differences(names: Sequence[str], roles: Sequence[RoleSums], settings: MergeStage, stage: str) -> list[str]:
    """Warnings about the differences as a whole; StudyError for one that is empty."""
    whole = RoleSums(
        squares=np.sum([one.squares for one in roles], axis=0), products=np.sum([one.products for one in roles], axis=0)
    )
    empty = [name for name, square in zip(names, whole.squares, strict=True) if square == 0]
    if empty and settings.method in TASK_VECTORS:
        cure = "leave it out, or take another base"
        message = f"`{empty[0]}` is the base: its difference is empty; {cure}"
        raise StudyError(at(f"stages.{stage}.models.{empty[0]}"), message, exit_code=Exit.PREFLIGHT_REFUSED)
    warnings = [f"`{name}` is the base: nothing of it differs" for name in empty]
    norms = dict(zip(names, np.sqrt(whole.squares), strict=True))
    for (one, other), cosine in zip(combinations(names, 2), _cosines(whole), strict=True):
        short, long = sorted((one, other), key=lambda name: norms[name])
        if cosine is None or cosine < LEAST_COSINE:
            continue
        if abs(cosine - norms[short] / norms[long]) < NEAR * cosine:
            warnings.append(
                f"`{long}` looks as if it was trained from `{short}`: its difference lies as one would that holds the "
                f"other's (cosine {cosine:.3f}, norms {norms[short]:.4g} and {norms[long]:.4g})"
            )
    return warnings


def of_models(inputs: Inputs, settings: MergeStage) -> Mapping[str, Any]:
    """The report's "models": what was asked of each, and what tells it apart."""
    return {
        name: {
            **one.model_dump(include={"weight", "weights", "density", "densities"}),
            "kind": inputs.kinds[name],
            "identity": inputs.identities[name],
        }
        for name, one in settings.models.items()
    }
