"""Where records come from, how their columns are read, and how data sets are mixed."""

from collections.abc import Sequence
from fractions import Fraction
from math import floor
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from tunestudy.config.base import Config, neutral, newer
from tunestudy.config.fetch import FetchSettings
from tunestudy.config.order import AnyOrder
from tunestudy.config.synth import SynthSettings, SynthShape, fitted

Format = Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion", "caption", "text"]


class Dataset(Config):
    """What every data set has, wherever it comes from."""

    format: Format = "auto"
    """What records look like; `auto` tells it by the first record's columns."""
    columns: dict[str, str] = {}
    """The format's field → the file's column, e.g. `{prompt: question, completion: answer}`."""
    language: str | None = None
    """A tag such as `ko`; losses are also reported per language."""
    system: str | None = None
    """A system prompt for records that carry none."""
    limit: int | None = Field(None, gt=0)
    """At most this many records, chosen by hash of id and seed 0 (stable as the data grow)."""
    held_out: float = Field(0.0, ge=0, lt=1)
    """Share of records kept from training, chosen by hash of id; named `<data set>@held_out`."""
    max_rejected: float = Field(0.01, ge=0, le=1)
    """Share of bad records above which the data set is refused: of all that are read, and of those that `limit` and the
    split leave for a stage."""
    question: str | None = None
    """What is asked about images that have only a caption; default: nothing, the caption follows its image."""
    image_folder: str | None = None
    """Where relative paths of images start; default: the folder of the data set's file."""
    max_image_pixels: int = Field(89_478_485, gt=0)
    """Width × height above which an image is rejected before it is decoded."""
    chain_of_thought: Literal["none", "before_answer"] = "none"
    """`before_answer`: a record's `rationale` is learnt in front of its (last) answer; `none` leaves the answer alone.
    Ids, splits and a benchmark's reference stay those of the answer either way."""
    rationale_separator: str = "\n"
    """What stands between a rationale and its answer."""

    @property
    def hub_id(self) -> str | None:
        """The repository of the Hugging Face hub that its records come from, if they do."""
        return None


class FileDataset(Dataset):
    """json, jsonl, csv, parquet, arrow or WebDataset's tar, alone or a folder of them."""

    type: Literal["file"] = "file"
    path: str
    """Relative to the study file."""
    fetch: FetchSettings | None = None
    """How to fetch the images that the records name by URL (`fetch: {}`); none: URLs are refused."""


class HubDataset(Dataset):
    """A data set of the Hugging Face hub."""

    type: Literal["hub"] = "hub"
    name: str
    """`organisation/name`."""
    subset: str | None = None
    """Several are joined by `+` and read one after the other."""
    split: str = "train"
    """A split of the data set, as `datasets` names it."""
    revision: str | None = None
    """Commit, branch or tag; what it was is kept in study.lock."""
    fetch: FetchSettings | None = None
    """How to fetch the images that the records name by URL (`fetch: {}`); none: URLs are refused."""

    @property
    def hub_id(self) -> str:
        return self.name


class DrawnPool(Config):
    """A pool of the web that is made here: coloured shapes, captions that name them, and links of which some are dead.

    `fetch` plays the hosts for as long as it runs, on loopback; `run` fetches such a pool by itself.
    """

    count: int = Field(gt=0)
    """Links. A longer pool begins with those of a shorter one."""
    seed: int = 0
    """Which pictures and captions are drawn, and which links are dead."""
    image_size: int = Field(56, ge=28, le=4096)
    """Side of the square images in pixels."""
    dead: float = Field(0.35, ge=0, lt=1)
    """Share of links that give no image any more, or another one than was meant."""


class DatacompDataset(Dataset):
    """Image-text pairs of the web as DataComp lists them: `uid`, `url`, `text`, `sha256`; the images are fetched.

    Source: Gadre et al. 2023, DataComp, arXiv:2304.14108.
    """

    type: Literal["datacomp"] = "datacomp"
    name: str | None = newer()
    """The repository of the hub that holds the metadata, such as `mlfoundations/datacomp_small`; `fetch` brings its
    parquet files first."""
    revision: str | None = newer()
    """Of that repository. Default: what `fetch` locks."""
    path: str | None = None
    """In place of `name`: a file or folder of metadata (parquet; also jsonl, csv), relative to the study file."""
    drawn: DrawnPool | None = newer()
    """In place of `name`: a pool that is made here, to try the whole way of an image without the web."""
    num_samples: int | None = Field(None, gt=0)
    """Take this many, chosen by hash of `uid`: a larger number takes the same ones and more."""
    question: str = Field("Describe this image.", min_length=1)
    """What the model is asked of every image; its `text` is the answer."""
    fetch: FetchSettings = Field(default_factory=FetchSettings)
    """Which images are taken, and how they are asked for."""

    @property
    def hub_id(self) -> str | None:
        return self.name

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        given = [key for key in ("name", "path", "drawn") if getattr(self, key) is not None]
        if len(given) != 1:
            written = f"not {' and '.join(given)}" if given else "such as `name: mlfoundations/datacomp_small`"
            raise ValueError(f"needs one of `name` (of the hub), `path` (files here) and `drawn`, {written}")
        if self.revision is not None and self.name is None:
            raise ValueError("revision: is that of a `name`, and none is given")
        return self


class DigitsDataset(Dataset):
    """scikit-learn's bundled handwritten digits (1,797 real scans of 8×8 pixels), as text or as images.

    Source: Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits, UCI.
    """

    type: Literal["digits"] = "digits"
    rotate: Literal[0, 90, 180, 270] = 0
    """Degrees counter-clockwise; the record ids stay, so every rotation holds out the same scans."""
    trim: bool = False
    """Leave out the scans' first and last column, which hold 0.3 % of the ink, before turning them."""
    render: Literal["text", "image"] = "text"
    """`image`: a grey picture of 8×8 pixels and a question, for vision-language models."""
    question: str = "digit?"
    """What an image is asked."""


class SynthDataset(SynthSettings, Dataset):
    """Images drawn when they are read, with questions whose answers are known exactly; needs no download."""

    type: Literal["synth"] = "synth"
    shape: SynthShape = "plain"
    """The columns of a public benchmark in place of our own: what `type: mmbench` and others then read."""

    @model_validator(mode="before")
    @classmethod
    def _as_the_shape_needs(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        arrays = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return fitted({**values, **arrays})  # strict validation of JSON knows arrays only before this


def _source_tag(value: object) -> str:
    if isinstance(value, Dataset):
        return str(value.type)  # type: ignore[attr-defined]
    keys = value if isinstance(value, dict) else {}
    return str(keys.get("type") or ("hub" if "name" in keys else "file"))


AnyDataset = Annotated[
    Annotated[FileDataset, Tag("file")]
    | Annotated[HubDataset, Tag("hub")]
    | Annotated[DatacompDataset, Tag("datacomp")]
    | Annotated[DigitsDataset, Tag("digits")]
    | Annotated[SynthDataset, Tag("synth")],
    Discriminator(_source_tag),
]


class MixturePart(Config):
    """One source of a mixture.

    Without any `weight`, an epoch is every sample of every source once (at most `max_samples` of a source).
    With weights, source i gives the share wᵢ ÷ Σw of an epoch's samples (a source that names none has weight 1), and an
    epoch is as long as it takes to see every source once: smaller ones repeat. A `max_samples` shortens the epoch until
    no source gives more. `samples_per_epoch` is the exact rule.
    """

    dataset: str
    """A key of `datasets`, optionally with `@held_out`."""
    weight: float | None = Field(None, gt=0)
    """Relative share of an epoch's samples."""
    max_samples: int | None = Field(None, gt=0)
    """Most samples taken from this source in one epoch; the next epoch goes on where this one stopped."""


def samples_per_epoch(available: Sequence[int], parts: Sequence[MixturePart]) -> list[int]:
    """How many samples each source of a mixture gives to an epoch, from how many it has.

    With weights: N = min(max(nᵢ ÷ pᵢ), min over capped sources of capᵢ ÷ pᵢ), rounded by largest remainders.
    """
    capped = [(count, part.max_samples or count) for count, part in zip(available, parts, strict=True)]
    if all(part.weight is None for part in parts):
        return [min(count, cap) for count, cap in capped]
    weights = [Fraction(str(part.weight or 1)) for part in parts]  # through text: 0.3 means 3/10
    shares = [weight / sum(weights) for weight in weights]
    longest = max(count / share for count, share in zip(available, shares, strict=True))
    limits = [part.max_samples / share for part, share in zip(parts, shares, strict=True) if part.max_samples]
    total = floor(min([longest, *limits]))
    exact = [share * total for share in shares]
    counts = [floor(count) for count in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


class DataSettings(Config):
    """What a stage trains on and in which order."""

    data: tuple[MixturePart, ...] = ()
    """A data set's name, or a list of names or `{dataset, weight, max_samples}`."""
    max_length: int = Field(1024, gt=0)
    """Tokens; a longer sample is handled as `overlong` says."""
    overlong: Literal["reject", "truncate"] = "reject"
    """What becomes of a sample longer than `max_length`: left out with a reason, or cut at its end."""
    packing: bool = False
    """Fill rows of `max_length` with several samples; attention and positions never cross a sample."""
    max_images_per_pack: int | None = Field(None, gt=0)
    """Images that packed samples of one row may have in all; a sample with more has a row of its own."""
    order: AnyOrder = "shuffle"
    """`shuffle` (or `random`), `sequential` (or `as_given`), `length_grouped`, or a curriculum: `{by: column, …}` or
    `{by: score, …}`. It decides which samples are in a step; within a step ranks get them by length."""
    data_seed: int | None = None
    """Default: the trial's seed."""
    loss_on: Literal["assistant", "completion", "all"] = "assistant"
    """Which tokens are targets. `assistant`: every assistant turn with its stop token, or the completion of a prompt;
    `completion`: the last assistant turn alone; `all`: every token. Plain text always counts in full."""
    preprocessing_num_workers: int = neutral(1, ge=1)
    """Processes that tokenise; the samples are the same for any number."""

    @field_validator("order", mode="before")
    @classmethod
    def _other_words(cls, value: object) -> object:
        return {"random": "shuffle", "as_given": "sequential"}.get(value, value) if isinstance(value, str) else value
