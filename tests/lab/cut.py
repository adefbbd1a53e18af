"""A step's rows as one rank's micro-batches, made at once."""

from collections.abc import Sequence

from tunestudy.data.batch import Batch, Layout, Row
from tunestudy.data.corpus import Corpus
from tunestudy.data.loader import Cutter


def micro_batches(
    corpus: Corpus,
    rows: Sequence[Row],
    *,
    rank: int,
    world_size: int,
    micro_batch: int,
    layout: Layout,
    mark_samples: bool = False,
) -> list[Batch]:
    """As training cuts them."""
    cutter = Cutter(layout=layout, rank=rank, world_size=world_size)
    shares = cutter.shares(corpus, rows, micro_batch)
    return [cutter.batch(corpus, share, mark_samples=mark_samples) for share in shares]
