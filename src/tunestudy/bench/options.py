"""What has to be computed to weigh the options of questions, and which of it several questions share.

An option's log-probability is the sum over its tokens. Options of one token are all read from the logits at the
question's end. A longer one is fed behind the question, but for its last token. What begins with the same tokens and
the same images forms a cluster: the beginning is computed once, and its keys and values serve all that follows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tunestudy.bench.tasks import Question
from tunestudy.data.images import ImageFacts

Ids = tuple[int, ...]

WORTH = 0.75
"""A beginning is shared if that leaves no more than this part of the tokens to compute: it costs a pass more."""
LEAST = 0.25
"""The smallest part of a row that it may share: less is not worth another row's longer beginning."""


@dataclass(frozen=True)
class Read:
    """One token's log-probability, and what it is a part of."""

    place: int
    """Of the token before it."""
    token: int
    question: int
    option: int


@dataclass
class Fed:
    """A row of token ids (T,) that is fed to the model, and what is read from its logits."""

    ids: Ids
    images: tuple[ImageFacts, ...]
    reads: list[Read] = field(default_factory=list)
    """In the order of their places."""

    @property
    def first_place(self) -> int:
        return self.reads[0].place


@dataclass
class Cluster:
    """Rows that begin with the same `prefix` tokens, all their images among them; 0: nothing is shared."""

    prefix: int
    rows: list[Fed]

    @property
    def longest_rest(self) -> int:
        return max(len(row.ids) for row in self.rows) - self.prefix

    @property
    def places(self) -> set[int]:
        """From where in the rests logits are read."""
        return {read.place - self.prefix for row in self.rows for read in row.reads}

    def pieces(self, most: int) -> "Iterator[Cluster]":
        """In parts of at most `most` rows."""
        for start in range(0, len(self.rows), max(1, most)):
            yield Cluster(self.prefix, self.rows[start : start + max(1, most)])


def fed(asked: Sequence[tuple[Question, Sequence[Ids]]]) -> list[Fed]:
    """The rows to feed for every question and the tokens of its options; an option without tokens needs none."""
    rows: list[Fed] = []
    for number, (question, options) in enumerate(asked):
        end = len(question.ids) - 1
        assert end >= 0, "a question has at least one token"
        short = Fed(question.ids, question.images)
        for option, tokens in enumerate(options):
            row = short if len(tokens) < 2 else Fed(question.ids + tokens[:-1], question.images)
            row.reads += [Read(end + i, token, number, option) for i, token in enumerate(tokens)]
            if row is not short:
                rows.append(row)
        if short.reads:
            rows.append(short)
    return rows


def clusters(rows: Sequence[Fed], image_token: int | None) -> list[Cluster]:
    """`rows`, with those together that gain by it. A beginning holds all images, and ends before what is read.

    Positions of what follows then count on from it, and no image's tokens, which may see each other in both
    directions, lie on both sides of the cut.
    """
    found: list[Cluster] = []
    shared = 0
    for row in sorted(rows, key=lambda row: (tuple(image.sha256 for image in row.images), row.ids)):
        last = found[-1].rows[-1] if found else None
        common = 0 if last is None else min(_common(last, row), shared)
        size = len(found[-1].rows) if found else 0
        enough = common > _after_images(row, image_token) and common >= LEAST * len(row.ids)
        if enough and size * common >= (size - 1) * shared:  # as much is saved as without this row
            found[-1].rows.append(row)
            found[-1].prefix = shared = common
        else:
            found.append(Cluster(0, [row]))
            shared = min(row.first_place, len(row.ids) - 1)
    return [kept for cluster in found for kept in _if_worth(cluster)]


def _common(one: Fed, other: Fed) -> int:
    """How many tokens both begin with, if their images are the same, up to what is read of either."""
    if one.images != other.images:
        return 0
    most = min(one.first_place, other.first_place)
    differs = (i for i, (a, b) in enumerate(zip(one.ids[:most], other.ids[:most], strict=True)) if a != b)
    return next(differs, most)


def _after_images(row: Fed, image_token: int | None) -> int:
    """The place behind which no image token stands; 0 if there is none."""
    if image_token is None or not row.images:
        return 0
    return len(row.ids) - 1 - row.ids[::-1].index(image_token)


def _if_worth(cluster: Cluster) -> list[Cluster]:
    whole = sum(len(row.ids) for row in cluster.rows)
    if whole - (len(cluster.rows) - 1) * cluster.prefix <= WORTH * whole and len(cluster.rows) > 1:
        return [cluster]
    return [Cluster(0, [row]) for row in cluster.rows]
