"""Which questions are asked together: batches of like length, cut by their padded tokens."""

from collections.abc import Iterator, Sequence

from tunestudy.bench.tasks import Row
from tunestudy.config.benchmark import Benchmark

BATCH_TOKENS = 16_384
CPU_TOKENS = 2048
"""Of a batch on a CPU, whose cache they fit into: a fifth faster at 8 M parameters than 16,384."""


def usual_tokens(device: str) -> int:
    """Padded tokens of a batch on this type of device, where the benchmark does not say."""
    return CPU_TOKENS if device == "cpu" else BATCH_TOKENS


def cut_by(benchmark: Benchmark, divisor: int, device: str) -> Benchmark:
    """The benchmark with batches so many times smaller than this type of device has; scores do not change."""
    if divisor == 1:
        return benchmark
    tokens, most = benchmark.batch_tokens or usual_tokens(device), benchmark.batch_size
    smaller = {"batch_tokens": max(1, tokens // divisor), "batch_size": most and max(1, most // divisor)}
    return benchmark.model_copy(update=smaller)


def cut(
    lengths: Sequence[int], *, max_tokens: int, max_size: int | None, max_rows: int | None = None
) -> Iterator[list[int]]:
    """Indices of `lengths` in batches, longest first, so that a batch that does not fit in memory shows at once.

    A batch has at most `max_tokens` with its padding, and at most `max_size` items (None: any number); an item that
    is longer stands alone. max_rows: another bound on the size, which is not the user's.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    bounds = [bound for bound in (max_size, max_rows) if bound is not None]
    start = 0
    while start < len(order):
        size = max(1, min(max_tokens // max(1, lengths[order[start]]), *bounds, len(order)))
        yield order[start : start + size]
        start += size


def chunks(rows: Sequence[Row], benchmark: Benchmark) -> list[list[Row]]:
    """The rows in parts that are asked and written down one after the other, about a batch each, longest first.

    They depend on the rows alone, never on the number of ranks. Rows of a group stay in one part, and rows of the same
    images stand side by side, so that one rank has them all and sees each image once.
    """
    budget, most = benchmark.batch_tokens or BATCH_TOKENS, benchmark.batch_size
    made: list[list[Row]] = []
    widest = 0
    for bundle in _bundles(rows):
        widest = max(widest, _length(bundle))
        size = len(made[-1]) + len(bundle) if made else 0
        if not made or size * widest > budget or (most is not None and size > most):
            made.append([])
            widest = _length(bundle)
        made[-1].extend(bundle)
    return made


def _bundles(rows: Sequence[Row]) -> list[list[Row]]:
    """Groups and single rows; families, which are shown the same images, by their longest row."""
    by_group: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.id):
        by_group.setdefault((row.group, "") if row.group else ("", row.id), []).append(row)
    families: dict[tuple[str, ...], list[list[Row]]] = {}
    for key, bundle in by_group.items():
        images = tuple(image.sha256 for image in bundle[0].images)
        families.setdefault(("i", *images) if images else ("t", *key), []).append(bundle)
    ordered = sorted(families.items(), key=lambda item: (-max(map(_length, item[1])), item[0]))
    return [bundle for _, family in ordered for bundle in sorted(family, key=lambda bundle: -_length(bundle))]


def _length(bundle: Sequence[Row]) -> int:
    return max(len(row.prompt_ids) for row in bundle)
