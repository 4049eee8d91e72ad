"""How well a VAE gives videos back, beside the best linear code of the same size, and what its latents are like.

Measured on clips that are only tested on: at `measure.short_side`, never enlarged, `measure.frames` frames. The
baseline is a principal component analysis of blocks of 4x8x8 pixels, as many numbers a block as the VAE has channels:
`pca` is fitted on the windows that the VAE learns from, as the VAE is; `pca_own` on the very frames that it is tested
on, which no code for unseen videos could be. All are measured over the frames that such blocks cover: all but the
first, which the VAE encodes for itself.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console

from captioning.job import FramePlan
from captioning.prefetch import Prefetcher
from captioning.todo import chosen, clip_rows
from curation.read import shown_size
from curation.scorers.runtime import allow_torchvision
from model.vae import CausalVAE
from orchestration.progress import Progress
from orchestration.runs import log
from orchestration.storage import Storage
from train.held_out import is_held_out
from train.vae.batches import pixels
from train.vae.config import SMALLEST, TrainVaeConfig
from train.vae.learner import channel_statistics
from train.vae.windows import Windows

BLOCK = (4, 8, 8)  # frames, rows and columns of the baseline's blocks
FITTED = 300_000  # blocks that the baseline is fitted on
PICTURES = 2  # of each video, beside each other
QUALITY = 92  # of their JPEGs
STATISTICS = 12  # windows that latents are described by
BETWEEN = (0.0, 0.25, 0.5, 0.75, 1.0)  # where on the line between two latents


@dataclass(frozen=True)
class Quality:
    """Of reconstructed frames: PSNR and that of frame differences (what does not flicker) in dB; SSIM."""

    psnr: float
    ssim: float
    flicker: float


@dataclass(frozen=True)
class Clip:
    """A window of a test video. frames: uint8 [T, H, W, 3]."""

    video: str
    frames: np.ndarray


class LinearCode:
    """Blocks of pixels as their first principal components, and back."""

    def __init__(self, mean: np.ndarray, axes: np.ndarray):
        self._mean, self._axes = mean, axes  # [768], [768, components]

    @classmethod
    def fit(cls, videos: Iterable[np.ndarray], components: int, each: int) -> LinearCode:
        """On blocks of uint8 videos [T, H, W, 3] without their first frames, `each` of one, drawn by a seed."""
        rng = np.random.default_rng(0)
        total, outer, sums = 0, np.zeros((np.prod(BLOCK) * 3,) * 2), np.zeros(np.prod(BLOCK) * 3)
        for video in videos:
            found = _blocks(video[1:])
            some = found[rng.choice(len(found), min(each, len(found)), replace=False)].astype(np.float64)
            total, sums, outer = total + len(some), sums + some.sum(0), outer + some.T @ some
        mean = sums / total
        _, axes = np.linalg.eigh(outer / total - np.outer(mean, mean))
        return cls(mean.astype(np.float32), axes[:, -components:].astype(np.float32))

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [T, H, W, 3] -> the same, of what the code keeps; T a multiple of 4, H and W of 8."""
        blocks = _blocks(frames).astype(np.float32) - self._mean
        made = np.clip(np.round(blocks @ self._axes @ self._axes.T + self._mean), 0, 255).astype(np.uint8)
        t, h, w = (side // by for side, by in zip(frames.shape, BLOCK, strict=False))
        return made.reshape(t, h, w, *BLOCK, 3).transpose(0, 3, 1, 4, 2, 5, 6).reshape(frames.shape)


def _blocks(frames: np.ndarray) -> np.ndarray:
    """[T, H, W, 3] -> [blocks, 768]; what is over at the ends is left out."""
    t, h, w = (side // by for side, by in zip(frames.shape, BLOCK, strict=False))
    whole = frames[: t * BLOCK[0], : h * BLOCK[1], : w * BLOCK[2]]
    return whole.reshape(t, BLOCK[0], h, BLOCK[1], w, BLOCK[2], 3).transpose(0, 2, 4, 1, 3, 5, 6).reshape(t * h * w, -1)


def quality(source: np.ndarray, made: np.ndarray) -> Quality:
    """Of uint8 videos [T, H, W, 3], over all frames."""
    allow_torchvision()  # torchmetrics imports it
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = (torch.from_numpy(video).permute(0, 3, 1, 2).double() / 255 for video in (source, made))
    ssim = structural_similarity_index_measure(b.float(), a.float(), data_range=1.0)
    assert isinstance(ssim, torch.Tensor)
    return Quality(_psnr(a, b), float(ssim), _psnr(a.diff(dim=0), b.diff(dim=0)))


def _psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """dB of values whose range is 1; 100 for what is equal."""
    return min(100.0, float(-10 * torch.log10((a - b).square().mean())))


def reconstruct(network: CausalVAE, frames: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W, 3] -> the same, through the means of the latents, as `rushes latents` encodes (8 at a time)."""
    device = next(network.parameters()).device
    with torch.no_grad():
        mean = network.encode(pixels(frames[None]).to(device)).mean
        return _shown(network.decode(mean))


def held_out_psnr(network: CausalVAE, windows: Windows, count: int, dtype: torch.dtype) -> float | None:
    """Mean PSNR over windows that nothing is learnt from, evenly chosen; None without any."""
    if not count or not len(windows.held_out):
        return None
    device = next(network.parameters()).device
    places = np.linspace(0, len(windows.held_out) - 1, min(count, len(windows.held_out))).round().astype(int)
    found = []
    for place in places:
        video = pixels(windows.pixels[windows.held_out[place]][None]).to(device)
        with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            made = network.decode(network.encode(video, chunk_frames=None).mean, chunk_frames=None)
        found.append(float(-10 * torch.log10((made.float().clamp(-1, 1) - video).square().mean() / 4)))
    return float(np.mean(found))


def test_clips(config: TrainVaeConfig, scratch: Path) -> Iterator[Clip]:
    """Windows of `measure.dataset`, evenly spread over each video; of held out clips where it is not given."""
    root = config.measure.dataset or config.dataset
    storage = Storage(root)
    frames = config.measure.frames
    places: dict[str, list[tuple[Mapping[str, Any], int]]] = defaultdict(list)
    for row in clip_rows(storage, chosen(storage)):
        if config.measure.dataset is None and not is_held_out(row["clip_id"], config.windows.held_out):
            continue
        length = int(row["end_frame"]) - int(row["start_frame"])
        if not row.get("image"):
            places[_name(row)] += [(row, start) for start in range(0, length - frames + 1, frames)]
    plans: list[tuple[Mapping[str, Any], FramePlan]] = []
    for _, found in sorted(places.items()):
        found.sort(key=lambda place: (place[0]["start_s"], place[1]))
        for at in np.linspace(0, len(found) - 1, min(config.measure.windows, len(found))).round().astype(int):
            row, start = found[at]
            try:
                height, width = shown_size(row)
            except ValueError as error:
                log.warning("clip %s is not tested on: %s", row["clip_id"], error)
                continue
            if min(height, width) < SMALLEST:
                log.warning("clip %s is not tested on: smaller than %d px", row["clip_id"], SMALLEST)
                continue
            scale = min(1.0, config.measure.short_side / min(height, width))
            size = round(height * scale), round(width * scale)
            plans.append((row, FramePlan(tuple(range(start, start + frames)), (0.0,) * frames, size)))
    with Prefetcher(root, config.prefetch, scratch) as read:
        for row, given in read(plans):
            if given.reason:
                log.warning("clip %s is not tested on: %s", row["clip_id"], given.reason)
                continue
            video = np.stack(list(given.frames))
            height, width = (side // 8 * 8 for side in video.shape[1:3])
            top, left = (video.shape[1] - height) // 2, (video.shape[2] - width) // 2
            yield Clip(_name(row), np.ascontiguousarray(video[:, top : top + height, left : left + width]))


def _name(row: Mapping[str, Any]) -> str:
    return os.path.basename(str(row["uri"]))


def measure(
    config: TrainVaeConfig, network: CausalVAE, windows: Windows, about: Mapping[str, Any], console: Console
) -> dict[str, Any]:
    """Write `quality.json` and `pictures/` of the output folder, and return what is in the former."""
    output = Path(config.output)
    folder = output / "pictures"
    folder.mkdir(exist_ok=True)
    components = network.config.latent_channels
    learnt = (windows.pixels[number] for number in windows.learnt)
    linear = LinearCode.fit(learnt, components, max(1, FITTED // len(windows.learnt)))
    clips = list(test_clips(config, output))
    own = {
        name: LinearCode.fit((clip.frames for clip in clips if clip.video == name), components, FITTED)
        for name in {clip.video for clip in clips}
    }
    results: dict[str, list[tuple[Clip, list[Quality], dict[str, Any]]]] = defaultdict(list)
    with Progress("Measuring", len(clips), "windows", 0, console) as progress:
        for done, clip in enumerate(clips):
            number = len(results[clip.video])
            source, made = clip.frames[1:], reconstruct(network, clip.frames)[1:]
            baseline = linear(source)
            found = [quality(source, video) for video in (made, baseline, own[clip.video](source))]
            pictures = {}
            if number < PICTURES:
                for kind, video in (("source", source), ("pca", baseline), ("vae", made)):
                    pictures[kind] = f"{Path(clip.video).stem}-{number}-{kind}.jpg"
                    _picture(folder / pictures[kind], video[len(video) // 2])
            results[clip.video].append((clip, found, pictures))
            progress.update(done + 1, 0, 0, {}, [])
    summary = {
        **about,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "videos": [_summary(name, rows) for name, rows in results.items()],
        "latents": _latents(network, clips),
        "interpolations": list(_interpolations(network, clips, config.measure.interpolations, folder)),
    }
    (output / "quality.json").write_text(json.dumps(summary, indent=1))
    return summary


def _summary(name: str, rows: Sequence[tuple[Clip, list[Quality], dict[str, Any]]]) -> dict[str, Any]:
    frames, height, width, _ = rows[0][0].frames.shape
    means = {
        kind: {
            key: round(float(np.mean([asdict(row[1][at])[key] for row in rows])), 4) for key in asdict(rows[0][1][0])
        }
        for at, kind in enumerate(("vae", "pca", "pca_own"))
    }
    pictures = [{**row[2], "vae_psnr": row[1][0].psnr, "pca_psnr": row[1][1].psnr} for row in rows if row[2]]
    facts = {"name": name, "windows": len(rows), "frames": frames - 1, "height": height, "width": width}
    return {**facts, **means, "pictures": pictures}


def _latents(network: CausalVAE, clips: Sequence[Clip]) -> dict[str, Any]:
    """What the transformer sees: each channel's mean and deviation after scaling."""
    if not clips:
        return {}
    some = [clips[i] for i in np.linspace(0, len(clips) - 1, min(len(clips), STATISTICS)).round().astype(int)]
    mean, std = channel_statistics(network, [pixels(clip.frames[None]) for clip in some])
    scale = network.config.scaling_factor
    return {
        "mean": (mean * scale).tolist(),
        "std": (std * scale).tolist(),
        "scaling_factor": scale,
        "windows": len(some),
    }


def _interpolations(network: CausalVAE, clips: Sequence[Clip], count: int, folder: Path) -> Iterator[list[str]]:
    """Pictures along the straight line between the latents of two clips of one shape."""
    pairs = [(a, b) for a, b in itertools.pairwise(clips) if a.frames.shape == b.frames.shape]
    device = next(network.parameters()).device
    for number, place in enumerate(np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(int)):
        with torch.no_grad():
            a, b = (network.encode(pixels(clip.frames[None]).to(device)).mean for clip in pairs[place])
            names = []
            for step, share in enumerate(BETWEEN):
                video = _shown(network.decode(torch.lerp(a, b, share)))
                names.append(f"interpolation-{number}-{step}.jpg")
                _picture(folder / names[-1], video[len(video) // 2])
        yield names


def _shown(video: torch.Tensor) -> np.ndarray:
    """[1, 3, T, H, W] in about [-1, 1] -> uint8 [T, H, W, 3]."""
    return (
        (video[0].float().mul(127.5).add(127.5).round().clamp(0, 255)).to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()
    )


def _picture(path: Path, frame: np.ndarray) -> None:
    cv2.imwrite(str(path), frame[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
