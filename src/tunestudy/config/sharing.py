"""What of a stage goes to the Hugging Face hub. Spellings are those of `TrainingArguments`; nothing changes a result.

Tokens are no settings: they come from HF_TOKEN or `hf auth login`.
"""

from typing import Literal

from tunestudy.config.base import Config, neutral

Strategy = Literal["end", "every_save", "checkpoint", "all_checkpoints"]


class SharingSettings(Config):
    """Where results go on the hub."""

    push_to_hub: bool = neutral(False)
    """Push the stage's result when it is trained and scored. Uploads are a process of their own, which no step waits
    for."""
    hub_model_id: str | None = neutral(None)
    """Repository of each result: `{study}`, `{variant}`, `{seed}` and `{stage}` stand for the job's; without `name/` in
    front, under the token's user. Default: `{study}-{variant}-seed{seed}-{stage}`."""
    hub_private_repo: bool | None = neutral(None)
    """Of a repository that the push makes; default: what the organisation does."""
    hub_revision: str | None = neutral(None)
    """Branch to push to, made if it is missing; default: main."""


class CheckpointSharing(SharingSettings):
    """And of a stage that trains."""

    hub_strategy: Strategy = neutral("end")
    """`end`: the result. `every_save`: also the weights of each checkpoint. `checkpoint`: also the newest checkpoint as
    `last-checkpoint/`, with all to go on from. `all_checkpoints`: each as `checkpoint-500/`."""
