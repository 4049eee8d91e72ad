"""Positions of video tokens: what holds for all sizes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.positions import apply_rope, rope_3d, rope_positions, sincos_3d
from model.transformer import PRESETS

SMALL = st.integers(1, 7)
SHIFT = st.integers(-20, 20)


@given(SMALL, SMALL, SMALL)
@settings(deadline=None, max_examples=50)
def test_a_row_for_each_token(frames, height, width):
    assert sincos_3d(frames, height, width, 32).shape == (frames * height * width, 32)
    cos, sin = rope_3d(*rope_positions(frames, height, width, 5, 5), 32)
    assert cos.shape == sin.shape == (frames * height * width, 16)
    assert PRESETS["2b"].tokens(frames, 2 * height, 2 * width) == len(cos)


@given(SHIFT, SHIFT, SHIFT, st.integers(0, 2**31))
@settings(deadline=None, max_examples=50)
def test_rope_sees_only_how_far_two_tokens_are_apart(dt, dh, dw, seed):
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 1, 3 * 4 * 5, 1, 64, generator=generator, dtype=torch.float64).unbind()
    axes = [torch.arange(n, dtype=torch.float64) for n in (3, 4, 5)]

    def logits(shift):
        cos, sin = rope_3d(*(axis + step for axis, step in zip(axes, shift, strict=True)), 64)
        cos, sin = cos.double(), sin.double()
        rotated = [_rotate(x, cos, sin) for x in (q, k)]
        return torch.einsum("bshd,bthd->bst", *rotated)

    torch.testing.assert_close(logits((0, 0, 0)), logits((dt, dh, dw)), atol=1e-6, rtol=1e-6)


def _rotate(x, cos, sin):
    """apply_rope computes in float32; its float32 result must be this one."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    exact = torch.view_as_real(pairs * torch.complex(cos, sin)[:, None]).flatten(-2)
    torch.testing.assert_close(apply_rope(x, cos, sin).double(), exact, atol=1e-5, rtol=1e-5)
    return exact


@given(SMALL, SMALL, SMALL)
@settings(deadline=None, max_examples=25)
def test_rope_keeps_lengths(frames, height, width):
    cos, sin = rope_3d(*rope_positions(frames, height, width, 6, 6), 32)
    x = torch.randn(2, len(cos), 3, 32)
    torch.testing.assert_close(apply_rope(x, cos, sin).norm(dim=-1), x.norm(dim=-1))


def test_positions_count_at_the_base_size_and_interpolate_elsewhere():
    t, h, w = rope_positions(4, 30, 45, 30, 45)
    assert t.tolist() == [0, 1, 2, 3]
    assert torch.allclose(h, torch.arange(30.0), atol=1e-4)
    assert torch.allclose(w, torch.arange(45.0), atol=1e-4)
    _, h, w = rope_positions(1, 60, 90, 30, 45)
    assert torch.allclose(h, torch.arange(60) / 2, atol=1e-4)
    assert torch.allclose(w, torch.arange(90) / 2, atol=1e-4)
    _, h, w = rope_positions(1, 60, 90, 60, 90)  # extrapolated: the new size is the base
    assert float(h[-1]) == pytest.approx(59, abs=1e-4)


def test_a_tall_picture_is_centred_in_the_base():
    _, h, w = rope_positions(1, 30, 10, 30, 45)
    assert float(h[0]) == 0
    assert float(w[0]) == 18  # (45 - 10) / 2, rounded to even as diffusers rounds


def test_sincos_tells_every_token_apart():
    table = sincos_3d(3, 4, 5, 64, 1.875)
    distances = torch.cdist(table, table) + torch.eye(60) * 9
    assert float(distances.min()) > 0.1


def test_widths_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="a multiple of 16, not 24"):
        sincos_3d(1, 1, 1, 24)
    with pytest.raises(ValueError, match="a multiple of 16 channels, not 24"):
        rope_3d(*rope_positions(1, 1, 1, 1, 1), 24)
