"""What needs a CUDA device: kernels agree, and the networks run in bfloat16. `pytest -m gpu`."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from helpers_model import ROPE, SINCOS, inputs, transformer, vae

from model.attention import attention, choose

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("backend", ["auto", "sdpa", "cudnn", "flash2", "flash3"])
def test_kernels_agree_with_plain_attention(backend):
    package = {"flash2": "flash_attn", "flash3": "flash_attn_interface"}.get(backend)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    device = torch.device("cuda")
    q, k, v = torch.randn(3, 2, 1000, 4, 64, device=device, dtype=torch.bfloat16).unbind()
    given = [x.clone().requires_grad_() for x in (q, k, v)]
    exact = [x.float().requires_grad_() for x in (q, k, v)]
    found, wanted = attention(*given, choose(backend, device)), attention(*exact, "math")
    torch.testing.assert_close(found.float(), wanted, atol=2e-2, rtol=2e-2)
    found.sum().backward()
    wanted.sum().backward()
    for ours, theirs in zip(given, exact, strict=True):
        assert float((ours.grad.float() - theirs.grad).norm() / theirs.grad.norm().clamp(min=1e-3)) < 0.05


@pytest.mark.parametrize("config", [SINCOS, ROPE], ids=["sincos", "rope"])
def test_bfloat16_on_the_device_stays_near_float32_on_the_cpu(config):
    network = transformer(config)
    latents, text, timesteps = inputs(config, 3, 6, 8)
    exact = network(latents, text, timesteps)
    network = network.to("cuda", torch.bfloat16)
    found = network(latents.to("cuda", torch.bfloat16), text.to("cuda", torch.bfloat16), timesteps.cuda())
    assert float((found.float().cpu() - exact).norm() / exact.norm()) < 0.03
    found.float().square().mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters())


def test_the_compiled_transformer_agrees():
    network = transformer(ROPE).cuda()
    given = [x.cuda() for x in inputs(ROPE, 3, 6, 8)]
    found = torch.compile(network, fullgraph=True)(*given)
    torch.testing.assert_close(found, network(*given), atol=2e-3, rtol=2e-3)


def test_the_vae_gives_the_cpus_latents():
    network = vae()
    video = torch.randn(1, 3, 17, 64, 64).clamp(-1, 1)
    with torch.no_grad():
        exact = network.encode(video).mean
        found = network.cuda().encode(video.cuda()).mean
    torch.testing.assert_close(found.cpu(), exact, atol=1e-2, rtol=1e-2)
