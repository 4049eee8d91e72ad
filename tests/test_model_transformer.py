"""The expert transformer against diffusers', and what it refuses."""

from __future__ import annotations

import pytest
import torch
from helpers_model import (
    ROPE,
    SINCOS,
    TOLERANCE,
    diffusers_rope,
    diffusers_transformer,
    inputs,
    largest_difference,
    transformer,
)

from model.attention import attention, choose
from model.flops import forward_flops, mfu, train_flops
from model.transformer import PRESETS, ExpertTransformer

# Latent frames, height, width: the size made for, an image, longer and wider, taller and of one column of patches.
SIZES = [(3, 6, 8), (1, 6, 8), (5, 4, 12), (2, 10, 6), (3, 12, 2)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("config", [SINCOS, ROPE], ids=["sincos", "rope"])
def test_outputs_and_gradients_are_those_of_diffusers(config, size, tmp_path):
    ours = transformer(config)
    theirs = diffusers_transformer(ours, tmp_path).train()
    latents, text, timesteps = inputs(config, *size)
    ours_in, theirs_in = latents.clone().requires_grad_(), latents.clone().requires_grad_()
    found = ours(ours_in, text, timesteps)
    wanted = theirs(theirs_in, text, timesteps, image_rotary_emb=diffusers_rope(config, *size)).sample
    assert float(wanted.detach().std()) > 0.3
    torch.testing.assert_close(found, wanted, atol=TOLERANCE, rtol=TOLERANCE)
    weight = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(2))
    (found * weight).sum().backward()
    (wanted * weight).sum().backward()
    assert largest_difference(ours, theirs) < TOLERANCE
    torch.testing.assert_close(ours_in.grad, theirs_in.grad, atol=TOLERANCE, rtol=TOLERANCE)


def test_each_part_of_the_input_matters():
    ours = transformer()
    latents, text, timesteps = inputs(ROPE, 3, 6, 8)
    base = ours(latents, text, timesteps)
    assert not torch.allclose(ours(latents, text.flip(1), timesteps), ours(latents, text * 2, timesteps), atol=1e-3)
    assert not torch.allclose(base, ours(latents, text, (timesteps + 500) % 1000), atol=1e-3)
    assert not torch.allclose(base.flip(1), ours(latents.flip(1), text, timesteps), atol=1e-3)  # order of frames


def test_samples_of_a_batch_do_not_see_each_other():
    ours = transformer()
    latents, text, timesteps = inputs(ROPE, 3, 6, 8)
    both = ours(latents, text, timesteps)
    for i in range(2):
        torch.testing.assert_close(both[i : i + 1], ours(latents[i : i + 1], text[i : i + 1], timesteps[i : i + 1]))


@pytest.mark.parametrize("config", [SINCOS, ROPE], ids=["sincos", "rope"])
def test_recomputing_blocks_changes_no_gradient(config):
    plain, checkpointed = transformer(config), transformer(config)
    checkpointed.gradient_checkpointing = True
    for network in (plain, checkpointed):
        network(*inputs(config, 3, 6, 8)).square().sum().backward()
    assert largest_difference(plain, checkpointed) == 0


def test_recomputing_keeps_less(monkeypatch):
    def kept(network) -> int:
        total = 0

        def count(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            network(*inputs(ROPE, 3, 6, 8))
        return total

    plain, checkpointed = transformer(), transformer()
    checkpointed.gradient_checkpointing = True
    assert kept(checkpointed) < kept(plain) / 4


@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_compiles_as_one_graph(checkpointing):
    ours = transformer()
    ours.gradient_checkpointing = checkpointing
    given = inputs(ROPE, 3, 6, 8)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    found = compiled(*given)
    torch.testing.assert_close(found, ours(*given), atol=TOLERANCE, rtol=TOLERANCE)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in ours.parameters())
    torch._dynamo.reset()


@pytest.mark.slow
def test_inductor_agrees():
    ours = transformer()
    given = inputs(ROPE, 3, 6, 8)
    found = torch.compile(ours, fullgraph=True)(*given)
    torch.testing.assert_close(found, ours(*given), atol=TOLERANCE, rtol=TOLERANCE)
    torch._dynamo.reset()


def test_bfloat16_stays_near_float32():
    ours = transformer()
    given = inputs(ROPE, 3, 6, 8)
    exact = ours(*given)
    half = ours.bfloat16()(given[0].bfloat16(), given[1].bfloat16(), given[2])
    assert half.dtype == torch.bfloat16
    assert float((half.float() - exact).norm() / exact.norm()) < 0.03


def test_weights_of_another_type_do_not_round_the_timestep():
    """Quantisers keep weights as integers and compute in the input's type."""

    class Stored(torch.nn.Linear):
        def forward(self, x):
            return torch.nn.functional.linear(x, self.exact, self.bias)

    ours = transformer()
    given = inputs(ROPE, 3, 6, 8)
    wanted = ours(*given)
    layer = ours.time_embedding.linear_1
    layer.__class__, layer.exact = Stored, layer.weight.detach().clone()
    layer.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.uint8), requires_grad=False)
    torch.testing.assert_close(ours(*given), wanted)


def test_presets_have_the_published_sizes():
    with torch.device("meta"):
        sizes = {
            name: sum(parameter.numel() for parameter in ExpertTransformer.from_preset(name).parameters())
            for name in PRESETS
        }
        modulation = sum(
            parameter.numel()
            for name, parameter in ExpertTransformer.from_preset("2b").named_parameters()
            if ".norm1.linear" in name or ".norm2.linear" in name
        )
    assert round(sizes["2b"] / 1e9, 3) == 1.694
    assert round(sizes["5b"] / 1e9, 3) == 5.570
    assert round(modulation / 1e6) == 355
    assert sizes["tiny"] < 15e6


def test_cost_is_that_of_the_formula():
    config = PRESETS["2b"]
    assert config.max_text_seq_length + config.tokens(13, 60, 90) == 17_776
    assert forward_flops(config, 13, 60, 90) / 1e12 == pytest.approx(120.0, abs=0.05)
    assert train_flops(PRESETS["5b"], 13, 60, 90) / 1e12 == pytest.approx(997, abs=1)
    assert mfu(train_flops(config, 13, 60, 90), 0.728, 989e12) == pytest.approx(0.5, abs=0.01)


def test_attention_kernels_agree():
    q, k, v = torch.randn(3, 2, 19, 4, 16).unbind()
    torch.testing.assert_close(attention(q, k, v, "sdpa"), attention(q, k, v, "math"), atol=TOLERANCE, rtol=TOLERANCE)
    weights = torch.softmax(torch.einsum("bshd,bthd->bhst", q, k) / 4, dim=-1)
    by_hand = torch.einsum("bhst,bthd->bshd", weights, v)
    torch.testing.assert_close(attention(q, k, v, "sdpa"), by_hand, atol=TOLERANCE, rtol=TOLERANCE)


def test_a_kernel_that_is_not_there_is_refused():
    cpu = torch.device("cpu")
    assert choose("auto", cpu) == "sdpa"
    with pytest.raises(ValueError, match="cudnn runs on CUDA devices only"):
        choose("cudnn", cpu)
    with pytest.raises(ValueError, match="'fastest' is none of auto, sdpa"):
        choose("fastest", cpu)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, text: (x[:, :, :8], text), r"takes \[batch, frames, 16, height, width\]"),
        (lambda x, text: (x[..., :7], text), "do not divide into patches of 2x2.*multiples of 16"),
        (lambda x, text: (x, text[..., :5]), r"takes \[2, tokens, 24\]"),
        (lambda x, text: (x, text[:1]), r"takes \[2, tokens, 24\]"),
        (lambda x, text: (x, text.repeat(1, 2, 1)), "text of 14 tokens; this transformer takes 7"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change, message):
    latents, text, timesteps = inputs(ROPE, 3, 6, 8)
    latents, text = change(latents, text)
    with pytest.raises(ValueError, match=message):
        transformer()(latents, text, timesteps)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="no transformer preset '3b'; there are tiny, 2b, 5b"):
        ExpertTransformer.from_preset("3b")
