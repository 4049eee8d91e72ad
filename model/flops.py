"""What the transformer costs, and how much of the hardware a step used (MFU)."""

from __future__ import annotations

from model.transformer import TransformerConfig


def forward_flops(config: TransformerConfig, frames: int, height: int, width: int) -> float:
    """Multiplications and additions of one sample of F x H x W latents: L(24·S·h² + 4·S²·h), S with text.

    Attention's projections and the MLP are 24·S·h² a block, attention itself 4·S²·h; what grows with neither S·h² nor
    S² (embeddings, modulation) is left out, as is usual.
    """
    s, h = config.max_text_seq_length + config.tokens(frames, height, width), config.width
    return config.num_layers * (24.0 * s * h**2 + 4.0 * s**2 * h)


def train_flops(config: TransformerConfig, frames: int, height: int, width: int) -> float:
    """Forward and backward: 3 x forward. Recomputed blocks are no progress and not counted."""
    return 3 * forward_flops(config, frames, height, width)


def mfu(flops: float, seconds: float, peak: float) -> float:
    """Model FLOP utilisation (PaLM, arXiv 2204.02311, appendix B): share of the hardware's peak [FLOP/s]."""
    return flops / seconds / peak
