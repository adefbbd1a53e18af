"""Generation by vLLM: the same questions as token ids, greedy, with the LoRA adapter beside its base.

vLLM's kernels round differently, so an answer may differ where two tokens are about equally probable: the backend is
part of a score's fingerprint. vLLM expands image tokens by itself, so each image goes in as one token.
Source of the calls: vLLM's documentation, "Offline inference", "LoRA adapters" and "Multimodal inputs".
"""

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunestudy.bench.scorer import before_first
from tunestudy.bench.tasks import Question
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.job import Job
from tunestudy.config.paths import located
from tunestudy.data.images import decode
from tunestudy.data.vision import Eyes
from tunestudy.models.stored import MOLE_CONFIG
from tunestudy.records.layout import JobDir

KEY = "benchmarks.backend"
LOWEST_RANK = 8
"""The least `max_lora_rank` that vLLM takes; above it, powers of two."""


@dataclass(frozen=True)
class Served:
    """What vLLM loads."""

    model: str
    """A folder or a hub id."""
    revision: str | None = None
    adapter: Path | None = None
    rank: int = 0
    """Of the adapter."""
    dtype: str = "auto"
    trust_remote_code: bool = False


def served(job: Job, folder: JobDir) -> Served:
    """The job's published model, or the study's own where nothing was trained. StudyError where vLLM cannot load it."""
    model, settings = job.model, job.training
    options: dict[str, Any] = {"dtype": model.dtype, "trust_remote_code": model.trust_remote_code}
    if settings is None and job.merging is None:
        name = model.model_name_or_path
        if name is None:
            raise _refused("the model has random weights and lies in no folder")
        local = located(folder.root / job.base_dir, name)
        return Served(str(local.resolve()) if local.is_dir() else name, model.revision, **options)
    if settings is not None and (
        settings.components is not None or settings.world is not None or settings.quantization is not None
    ):
        raise _refused(
            "vLLM loads whole models and LoRA adapters on them; components, a world part or weights in few "
            "bits are none of these"
        )
    if (folder.model / MOLE_CONFIG).is_file():
        raise _refused("vLLM has no gates over LoRA experts: only a mixture with gate: layer, which is one plain LoRA")
    file = folder.model / "adapter_config.json"
    if not file.is_file():
        return Served(str(folder.model), **options)
    return _on_base(json.loads(file.read_text(encoding="utf-8")), folder.model, options)


def _on_base(config: dict[str, Any], adapter: Path, options: dict[str, Any]) -> Served:
    if config.get("use_dora") or config.get("modules_to_save"):
        raise _refused(
            "vLLM serves plain LoRA alone; this adapter is DoRA or has whole modules. Set save_merged, and "
            "evaluate the merged folder"
        )
    base = str(config["base_model_name_or_path"])
    local = (adapter / base).resolve()
    ranks = [config["r"], *(config.get("rank_pattern") or {}).values()]
    name, revision = (str(local), None) if local.is_dir() else (base, config.get("revision"))
    return Served(name, revision, adapter, max(ranks), **options)


class VllmScorer:
    """Answers as `bench.scorer.Scorer.generate` does. Options' probabilities stay with transformers."""

    def __init__(self, what: Served, tokenizer: Any, eyes: Eyes | None = None) -> None:
        """Loads the model onto the GPU. StudyError when vLLM is not installed."""
        try:
            import vllm
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            message = f"vllm needs vLLM, which cannot be imported ({error}): pip install vllm, or use transformers"
            raise StudyError(at(KEY), message, exit_code=Exit.PREFLIGHT_REFUSED) from None
        self._vllm, self._eyes, self.tokenizer = vllm, eyes, tokenizer
        options: dict[str, Any] = {}
        if what.adapter is not None:
            options |= {"enable_lora": True, "max_lora_rank": _rounded(what.rank)}
        self._model: Any = vllm.LLM(
            model=what.model,
            revision=what.revision,
            tokenizer=str(tokenizer.name_or_path),
            dtype=what.dtype,
            trust_remote_code=what.trust_remote_code,
            **options,
        )
        self._adapter = None if what.adapter is None else LoRARequest("result", 1, str(what.adapter))

    def generate(self, questions: Sequence[Question], *, max_new_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        """Greedy continuation of every question, decoded without special tokens, up to the first of `stop`."""
        texts = self._continued(questions, max_new_tokens, stop)
        # vLLM ends an answer at a stop in its leading white space, too, which may be a line break: those are asked anew
        blank = [i for i, text in enumerate(texts) if stop and not text.strip()]
        for i, text in zip(blank, self._continued([questions[i] for i in blank], max_new_tokens), strict=True):
            texts[i] = before_first(text, stop)
        return texts

    def _continued(self, questions: Sequence[Question], max_new_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        if not questions:
            return []
        sampling = self._vllm.SamplingParams(
            temperature=0.0, max_tokens=max_new_tokens, stop=list(stop) or None, skip_special_tokens=True
        )
        prompts = [self._prompt(question) for question in questions]
        told = self._model.generate(prompts, sampling, lora_request=self._adapter, use_tqdm=False)
        return [one.outputs[0].text for one in told]

    def close(self) -> None:
        """Give the GPU back."""
        self._model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _prompt(self, question: Question) -> dict[str, Any]:
        if not question.images:
            return {"prompt_token_ids": list(question.ids)}
        assert self._eyes is not None
        places = self._eyes.places
        images = [decode(places.read(facts), max_pixels=places.max_pixels) for facts in question.images]
        return {"prompt_token_ids": unexpanded(question, self._eyes), "multi_modal_data": {"image": images}}


def unexpanded(question: Question, eyes: Eyes) -> list[int]:
    """The question's ids with a single image token for each image."""
    ids: list[int] = []
    counts = [eyes.vision.num_tokens((image.width, image.height)) for image in question.images]
    left = 0
    for one in question.ids:
        if one != eyes.vision.image_token:
            ids.append(one)
        elif left:
            left -= 1
        else:
            ids.append(one)
            left = counts.pop(0) - 1
    assert not counts and left == 0, "as many image tokens as the images have"
    return ids


def _rounded(rank: int) -> int:
    return max(LOWEST_RANK, 1 << (rank - 1).bit_length())


def _refused(message: str) -> StudyError:
    return StudyError(at(KEY), f"{message}; leave `backend` out", exit_code=Exit.PREFLIGHT_REFUSED)
