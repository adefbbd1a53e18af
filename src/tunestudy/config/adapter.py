"""Adapters: one option model per kind, chosen by `type`."""

from typing import Annotated, Literal

from pydantic import Field

from tunestudy.config.base import Config


class LoraAdapter(Config):
    """Low-rank adaptation. Source: Hu et al. 2021, arXiv:2106.09685. Spellings are PEFT's."""

    type: Literal["lora"] = "lora"
    lora_r: int = Field(16, ge=1)
    lora_alpha: float = Field(32, gt=0)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | tuple[str, ...] | str = "all-linear"
    """`all-linear`, a list of module name endings, or one regular expression."""
    use_rslora: bool = False
    """Scale by alpha/√r in place of alpha/r. Source: arXiv:2312.03732."""


AnyAdapter = Annotated[LoraAdapter, Field()]
"""The union of all adapters; with the second kind it becomes discriminated by `type`."""
