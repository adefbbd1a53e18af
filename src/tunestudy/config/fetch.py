"""How images named by URLs are fetched, ahead of training."""

from typing import Any

from pydantic import Field

from tunestudy.config.base import Config, neutral


class FetchSettings(Config):
    """Which images are taken, and how politely they are asked for.

    Whatever came is written in a manifest, and the manifest is part of the data set's identity; so all that only
    decides *how* an image is asked for is neutral.
    """

    shards: int | None = Field(None, gt=0)
    """Train on the first so many shards of records, while later ones may still be on their way. Default: all."""
    max_bytes: int = Field(20_000_000, gt=0)
    """Of one image, as sent and as unpacked."""
    max_pixels: int = Field(50_000_000, gt=0)
    """Width × height; an image with more is refused by its header and never decoded."""
    min_side: int = Field(1, ge=1)
    """Pixels of the shorter side. Web pages hold many images of 1×1."""
    max_aspect_ratio: float | None = Field(None, ge=1)
    """Longer side ÷ shorter side."""
    verify_sha256: bool = True
    """Refuse an image that is not the one the data set's `sha256` names."""
    respect_noai: bool = True
    """Leave out images whose host sends `X-Robots-Tag: noai` or `noimageai`."""
    concurrency: int = neutral(256, gt=0)
    """Images under way at once."""
    per_host: int = neutral(8, gt=0)
    """Images under way at once from one host."""
    retries: int = neutral(2, ge=0)
    """Further attempts after a failure that may pass: 5xx, 429, a connection that breaks."""
    backoff_s: float = neutral(1.0, gt=0)
    """Wait before the first retry, doubled each time; a longer `Retry-After` counts instead."""
    deadline_s: float = neutral(30.0, gt=0)
    """For one image, over all attempts, redirects and waits, however slowly it drips."""
    connect_timeout_s: float = neutral(10.0, gt=0)
    """For one connection to be made."""
    allow_loopback: bool = neutral(False)
    """Also fetch from 127.0.0.0/8 and ::1, for a server of one's own. Private networks stay refused."""
    user_agent: str = neutral("tunestudy-fetch/1.0", min_length=1)
    """The name that hosts are told; what stands before its `/` is looked for in `X-Robots-Tag`."""
    shard_size: int = neutral(10_000, gt=0)
    """Records per manifest file; a fetch that has begun keeps the size it began with."""

    def deciding(self) -> dict[str, Any]:
        """The settings that decide which images are taken; `shards` only says how many of them are used."""
        neutral_fields = {
            name
            for name, field in type(self).model_fields.items()
            if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("fingerprint") is False
        }
        return self.model_dump(mode="json", exclude={*neutral_fields, "shards"})
