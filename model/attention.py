"""Scaled dot-product attention by the fastest kernel that the hardware and the installed packages have."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Backend = Literal["auto", "sdpa", "cudnn", "flash2", "flash3", "math"]

_CUDNN_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
_PACKAGES = {"flash2": "flash_attn", "flash3": "flash_attn_interface"}


@torch.compiler.assume_constant_result
def choose(backend: Backend, device: torch.device) -> Backend:
    """The kernel to use on a device, never "auto".

    auto: on Hopper FlashAttention-3 where its package is installed; else cuDNN's there and on later cards; on other
    devices what torch's own dispatcher picks (FlashAttention-2 on Ampere and Ada, its CPU kernel elsewhere).

    Raises:
        ValueError: an unknown name, a package that is not installed, a device without such a kernel.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"attention backend {backend!r} is none of {', '.join(get_args(Backend))}")
    cuda = device.type == "cuda"
    if backend == "auto":
        generation = torch.cuda.get_device_capability(device)[0] if cuda else 0
        if generation < 9:
            return "sdpa"
        return "flash3" if generation == 9 and _installed("flash3") else "cudnn"
    if backend in ("cudnn", "flash2", "flash3") and not cuda:
        raise ValueError(f"attention backend {backend} runs on CUDA devices only, not on {device}; use auto")
    if backend in _PACKAGES and not _installed(backend):
        raise ValueError(f"attention backend {backend} needs the package {_PACKAGES[backend]}; install it, or use auto")
    return backend


def attention(q: Tensor, k: Tensor, v: Tensor, backend: Backend = "sdpa") -> Tensor:
    """softmax(q kᵀ / √d) v over all positions, no mask: [B, S, heads, d] three times -> [B, S, heads, d].

    float32 goes to torch's own kernels: FlashAttention's packages have none for it.
    """
    q, k = q.to(v.dtype), k.to(v.dtype)  # autocast leaves normalised queries and keys in float32
    if backend in _PACKAGES and q.dtype in (torch.float16, torch.bfloat16):
        out = _flash(backend)(q, k, v)
        return out[0] if isinstance(out, tuple) else out
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [B, heads, S, d]
    if backend == "cudnn":
        with sdpa_kernel(_CUDNN_FIRST, set_priority=True):
            out = F.scaled_dot_product_attention(q, k, v)
    elif backend == "math":
        with sdpa_kernel(SDPBackend.MATH):
            out = F.scaled_dot_product_attention(q, k, v)
    else:
        out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2)


@cache
def _installed(backend: str) -> bool:
    return importlib.util.find_spec(_PACKAGES[backend]) is not None


@cache
def _flash(backend: str) -> Any:
    return importlib.import_module(_PACKAGES[backend]).flash_attn_func
