"""The methods as their papers define them, one module each, found by its name.

A method sees one tensor at a time, as parts that any thread may compute in any order. Adding one is a module with
`for_tensor` here and its name in `config/merge.py`.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from torch import Tensor

from tunestudy.merge.parts import Part, Task


@dataclass(frozen=True)
class Look:
    """What must be known of the whole tensor before its values can be merged, such as a threshold."""

    of_part: Callable[[Part], Any]
    """Small, whatever the part's size."""
    settle: Callable[[list[Any]], None]
    """Gets the answers of all parts, in the order of the parts."""


@dataclass(frozen=True)
class Method:
    """One tensor's merge."""

    merge: Callable[[Part], Tensor]
    """The merged values of a part, (count,) float32; called when all looks are settled."""
    looks: Sequence[Look] = ()


class MethodModule(Protocol):
    """What each module of this package is."""

    def for_tensor(self, task: Task) -> Method:
        """The method for one tensor. It may hold what its looks found, and nothing that outlives the tensor."""


def method_named(name: str) -> MethodModule:
    """The module `name` of this package."""
    return cast(MethodModule, importlib.import_module(f"{__name__}.{name}"))
