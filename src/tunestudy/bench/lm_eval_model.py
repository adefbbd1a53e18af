"""A model as lm-evaluation-harness wants to ask one, over our `Scorer`."""

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, has_bos_prefix, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from tunestudy.bench.likelihood import Asked
from tunestudy.bench.tasks import Question
from tunestudy.config.errors import StudyError, at

DEFAULT_CONTEXT = 2048
MAX_NEW_TOKENS = 256
"""Where a task does not say; both as the harness's own models for transformers have them."""

Together = Callable[[Callable[[list[Any]], list[Any]], list[Any]], list[Any]]


class ScoringLM(TemplateLM):  # type: ignore[misc]
    """Encodes as the harness's `HFLM` does, so that its numbers are the same."""

    def __init__(self, scorer: Any, together: Together) -> None:
        """together: shares requests between the ranks, each of which the harness takes for the only one."""
        super().__init__()
        self._scorer, self._together = scorer, together
        self.tokenizer = scorer.tokenizer
        self.max_length = scorer.context or DEFAULT_CONTEXT

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that nothing else stands before."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            options = {"add_special_tokens": False}
        ids: list[int] = self.tokenizer.encode(string, **options)
        return ids

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Sum of each continuation's log-probabilities, and whether greedy generation would write it."""
        asked = [self._asked(context, continuation) for _, context, continuation in requests]

        def answer(items: list[Asked]) -> list[tuple[float, bool]]:
            return [(one.total, one.greedy) for one in self._scorer.answer_log_probs(items)]

        found: list[tuple[float, bool]] = self._together(answer, asked)
        return found

    def _asked(self, context: list[int], continuation: list[int]) -> Asked:
        """What is too long loses its beginning."""
        if not 0 < len(continuation) <= self.max_length:
            message = f"a continuation has {len(continuation)} tokens; it must have 1 to {self.max_length}"
            raise StudyError(at("benchmarks.tasks"), message)
        whole = (context + continuation)[-(self.max_length + 1) :]
        return Question(tuple(whole[: -len(continuation)])), tuple(continuation)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:  # noqa: ARG002
        """The log-likelihood of whole texts, in windows that the harness cuts."""
        of_text = [
            [
                (None, *make_disjoint_window(window))
                for window in get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
            ]
            for request in requests
        ]
        found = iter(self._loglikelihood_tokens([window for windows in of_text for window in windows]))
        return [sum(next(found)[0] for _ in windows) for windows in of_text]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002
        """Greedy texts up to their stops. StudyError for a task that wants samples."""
        by_settings: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for i, request in enumerate(requests):
            by_settings.setdefault(self._settings(request.args[1]), []).append(i)
        texts = [""] * len(requests)
        for (max_new_tokens, stop), indices in by_settings.items():
            room = self.max_length - max_new_tokens
            if room < 1:
                message = f"a task writes up to {max_new_tokens} tokens, the model's positions reach {self.max_length}"
                raise StudyError(at("benchmarks.tasks"), message)
            questions = [Question(tuple(self.tok_encode(requests[i].args[0])[-room:])) for i in indices]

            def answer(items: list[Question], most: int = max_new_tokens, words: tuple[str, ...] = stop) -> list[str]:
                said: list[str] = self._scorer.generate(items, max_new_tokens=most, stop=words)
                return [up_to(text, words) for text in said]

            for i, text in zip(indices, self._together(answer, questions), strict=True):
                texts[i] = text
        return texts

    def _settings(self, given: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
        """Tokens at most, and the words that end a text."""
        settings = normalize_gen_kwargs(given, MAX_NEW_TOKENS)
        if settings.get("do_sample") or settings.get("num_beams", 1) != 1:
            raise StudyError(at("benchmarks.tasks"), f"a task samples ({given}); only greedy generation is repeatable")
        stop = handle_stop_sequences(settings.get("until"), eos=self.tokenizer.decode(self.eot_token_id))
        return int(settings["max_gen_toks"]), tuple(word for word in stop if word)


def up_to(text: str, words: Sequence[str]) -> str:
    """`text` up to the first of these, also at its very start: the harness counts a leading line break as a stop."""
    return min((text.partition(word)[0] for word in words), key=len, default=text)
