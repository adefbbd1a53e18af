"""A frozen video autoencoder of diffusers: images → normalised latents, outside of the model's module tree."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.paths import located
from tunestudy.config.world import INSTALL_WORLD, WorldEncoderSettings
from tunestudy.models.identity import Identity, folder_identity, settings_identity

CLASSES = {"wan": "AutoencoderKLWan", "cosmos": "AutoencoderKLCosmos"}
"""`type` → class of diffusers."""


class WorldEncoder(nn.Module):
    """Images → latents. Never trains, never moves with the model, is in no checkpoint.

    `channels`, `factor` (pixels per latent cell) and `frames_per_step` (frames per latent frame after the first) follow
    from the autoencoder. It computes in its own type whatever autocast says. It lives on `device`; without one, it
    moves to where the first images are.
    """

    def __init__(self, vae: Any, *, identity: Identity, folder: Path | None = None, device: str | None = None) -> None:
        """identity: what tells its weights apart; folder: where they were read, if that was on this machine."""
        super().__init__()
        self.identity, self.folder = identity, folder
        self.vae = _encoder_alone(vae).requires_grad_(False)
        self.eval()
        config = vae.config
        self.channels = int(config.get("z_dim") or config.get("latent_channels"))
        self.factor = int(config.get("scale_factor_spatial") or config.get("spatial_compression_ratio"))
        self.frames_per_step = int(config.get("scale_factor_temporal") or config.get("temporal_compression_ratio"))
        self._mean, self._std = (self._per_channel(config.get(key)) for key in ("latents_mean", "latents_std"))
        self._device = None if device is None else _present(device)

    def train(self, mode: bool = True) -> "WorldEncoder":  # noqa: ARG002 - part of the signature
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor, *, num_world_steps: int = 0) -> Tensor:
        """images (N, 3, S, S), or videos (N, T, 3, S, S) with T = 1 + steps × `frames_per_step` → latents
        (N, 1 + steps, C, S ÷ factor, S ÷ factor), fp32.

        Pixels are uint8 in 0…255, or floating point in [-1, 1]. A still image stands for a video of equal frames. The
        distribution's mode is taken, so equal images have equal latents; they are normalised by the mean and deviation
        per channel that the autoencoder was published with, where it has them.
        ValueError for pixels of another shape or range.
        """
        num_frames = 1 + num_world_steps * self.frames_per_step
        video = images[:, None].expand(-1, num_frames, -1, -1, -1) if images.ndim == 4 else images
        if (
            video.ndim != 5
            or video.shape[1:3] != (num_frames, 3)
            or any(side % self.factor for side in video.shape[3:])
        ):
            raise ValueError(
                f"world images of shape {tuple(images.shape)}: {num_frames} frames of 3 colours are needed, with sides "
                f"that divide by {self.factor}"
            )
        if not len(images):
            cells = [side // self.factor for side in video.shape[3:]]
            return torch.zeros(0, 1 + num_world_steps, self.channels, *cells, device=images.device)
        weight = next(self.vae.parameters())
        target = self._device or images.device
        if weight.device != target:
            self.to(target)
        pixels = in_range(video.to(target)).to(weight.dtype)
        with torch.autocast(target.type, enabled=False):
            latents = self.vae.encode(pixels.transpose(1, 2)).latent_dist.mode().float()
        return self._normalised(latents).transpose(1, 2)

    def _per_channel(self, values: Any) -> Tensor | None:
        """(1, C, 1, 1, 1), or (1, C, F, 1, 1) for Cosmos 1, which has numbers of its own for each latent frame."""
        if values is None:
            return None
        by_channel = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1, 1)
        if by_channel.numel() == self.channels:
            return by_channel
        if type(self.vae).__name__ != CLASSES["cosmos"] or by_channel.numel() % self.channels:
            raise StudyError(
                at("world.encoder.config"),
                f"latents_mean and latents_std have {by_channel.numel()} numbers for {self.channels} latent channels",
            )
        return by_channel.view(1, self.channels, -1, 1, 1)

    def _normalised(self, latents: Tensor) -> Tensor:
        """(N, C, F, h, w). Source: diffusers' pipelines of Wan and Cosmos, which do the same before their denoisers."""
        if self._mean is None or self._std is None:
            return latents
        frames = latents.shape[2]
        if 1 < self._mean.shape[2] < frames:
            raise ValueError(
                f"this autoencoder's normalisation knows {self._mean.shape[2]} latent frames, not {frames}"
            )
        mean, std = (value[:, :, :frames].to(latents.device) for value in (self._mean, self._std))
        return (latents - mean) / std


def in_range(pixels: Tensor) -> Tensor:
    """Pixels as autoencoders were trained on them, in [-1, 1]; ValueError for floats that are something else."""
    if pixels.dtype == torch.uint8:
        return pixels.float() / 127.5 - 1
    if not pixels.is_floating_point():
        raise ValueError(f"world images are uint8, or floating point in [-1, 1]; these are {pixels.dtype}")
    low, high = (float(value) for value in pixels.aminmax())
    if low < -1.001 or high > 1.001:
        raise ValueError(f"world images in floating point lie in [-1, 1]; these reach from {low:g} to {high:g}")
    return pixels


def load_encoder(settings: WorldEncoderSettings, *, seed: int, device: str | None, base_dir: Path) -> WorldEncoder:
    """The encoder that the settings name; random weights depend on `seed` alone.

    StudyError without diffusers, and for a folder or a configuration that is no such autoencoder.
    """
    made = _class_of(settings)
    if settings.model_name_or_path is None:
        identity = settings_identity(dict(settings.config), settings.type, seed)
        return WorldEncoder(_random(made, settings, seed), identity=identity, device=device)
    folder = located(base_dir, settings.model_name_or_path).resolve()
    name = str(folder) if folder.is_dir() else settings.model_name_or_path
    try:
        vae = made.from_pretrained(
            name,
            subfolder=settings.subfolder,
            revision=settings.revision,
            torch_dtype=getattr(torch, settings.dtype),
            use_safetensors=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        where, first = at("world.encoder.model_name_or_path"), str(error).splitlines()[0]
        raise StudyError(where, f"{name} cannot be loaded: {first}", exit_code=Exit.PREFLIGHT_REFUSED) from error
    if folder.is_dir():
        identity = folder_identity(folder / (settings.subfolder or ""))
        return WorldEncoder(vae, identity=identity, folder=folder, device=device)
    return WorldEncoder(vae, identity={"kind": "hub", "name": name, "revision": settings.revision}, device=device)


def _random(made: Any, settings: WorldEncoderSettings, seed: int) -> Any:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            vae: nn.Module = made(**settings.config)
    except (TypeError, ValueError) as error:
        raise StudyError(at("world.encoder.config"), f"{made.__name__} refuses it: {error}") from error
    return nn.Module.to(vae, getattr(torch, settings.dtype))  # diffusers' own warns of exceptions that it has none of


def _class_of(settings: WorldEncoderSettings) -> Any:
    try:
        import diffusers
    except ImportError as error:
        message = f"needs diffusers: {INSTALL_WORLD}"
        raise StudyError(at("world"), message, exit_code=Exit.PREFLIGHT_REFUSED) from error
    return getattr(diffusers, CLASSES[settings.type])


def _encoder_alone(vae: Any) -> Any:
    """Without the decoder, more than half of the weights, which nobody asks for a picture."""
    vae.decoder, vae.post_quant_conv = nn.Identity(), nn.Identity()
    return vae


def _present(device: str) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        message = f"there is no device {device} here: {str(error).splitlines()[0]}"
        raise StudyError(at("world.device"), message, exit_code=Exit.PREFLIGHT_REFUSED) from error
