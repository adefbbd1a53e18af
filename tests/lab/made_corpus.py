"""A tokenised corpus in memory, for tests that need samples of given lengths and targets."""

from collections.abc import Iterable, Sequence

import numpy as np

from tunestudy.data.corpus import Corpus, Texts


def corpus_of(
    samples: Iterable[tuple[Sequence[int], Sequence[bool]]],
    *,
    sources: tuple[str, ...] = ("data",),
    source: Sequence[int] = (),
) -> Corpus:
    """A corpus in memory from (ids, target flags) pairs; a sample's first token is never a target."""
    pairs = [(np.asarray(ids, np.int32), np.asarray(flags, np.bool_).copy()) for ids, flags in samples]
    for _, flags in pairs:
        flags[:1] = False
    count = len(pairs)
    return Corpus(
        ids=np.concatenate([ids for ids, _ in pairs]) if pairs else np.zeros(0, np.int32),
        is_target=np.concatenate([flags for _, flags in pairs]) if pairs else np.zeros(0, np.bool_),
        offsets=np.cumsum([0, *(len(ids) for ids, _ in pairs)], dtype=np.int64),
        source=np.asarray(source or [0] * count, np.int16),
        content=np.arange(count, dtype=np.uint64),
        sample_ids=Texts.of(str(i) for i in range(count)),
        sources=sources,
    )
