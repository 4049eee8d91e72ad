"""Low-rank adapters: trained here, loaded by diffusers, and back."""

from __future__ import annotations

import pytest
import torch
from helpers_model import ROPE, TOLERANCE, diffusers_rope, diffusers_transformer, inputs, transformer

from model import lora
from model.transformer import ExpertTransformer

GIVEN = inputs(ROPE, 3, 6, 8)


def adapted(rank: int = 4, alpha: float | None = 8, targets=lora.TARGETS):
    network = transformer()
    lora.add(network, rank, alpha, targets)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=generator)
    return network


def test_fresh_adapters_change_nothing_and_only_they_train():
    network = transformer()
    before = network(*GIVEN)
    found = lora.add(network, 4)
    assert len(found) == 2 * 4
    assert torch.equal(network(*GIVEN), before)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)


def test_a_few_steps_of_training_lower_the_loss():
    network = transformer()
    lora.add(network, 8)
    network.gradient_checkpointing = True
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    wanted = torch.randn(GIVEN[0].shape, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(15):
        loss = (network(*GIVEN) - wanted).square().mean()
        losses.append(float(loss))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("targets", [lora.TARGETS, (*lora.TARGETS, "ff.net.0.proj", "ff.net.2")], ids=["attn", "all"])
@pytest.mark.parametrize("alpha", [None, 8])
def test_diffusers_loads_them_with_their_alpha(alpha, targets, tmp_path):
    from diffusers import CogVideoXPipeline

    theirs = diffusers_transformer(transformer(), tmp_path / "base")
    network = adapted(4, alpha, targets)
    lora.save(network, tmp_path / "lora")
    pipeline = CogVideoXPipeline(None, None, None, theirs, None)
    pipeline.load_lora_weights(tmp_path / "lora")
    wanted = theirs(*GIVEN, image_rotary_emb=diffusers_rope(ROPE, 3, 6, 8)).sample
    assert not torch.allclose(wanted, transformer()(*GIVEN), atol=1e-2)
    torch.testing.assert_close(network(*GIVEN), wanted, atol=TOLERANCE, rtol=TOLERANCE)

    pipeline.save_lora_weights(tmp_path / "again", transformer_lora_layers=_layers(theirs), **_metadata(theirs))
    loaded = transformer()
    lora.load(loaded, tmp_path / "again")
    torch.testing.assert_close(loaded(*GIVEN), wanted, atol=TOLERANCE, rtol=TOLERANCE)


def _layers(theirs):
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(theirs, adapter_name="default_0")


def _metadata(theirs):
    return {"transformer_lora_adapter_metadata": theirs.peft_config["default_0"].to_dict()}


def test_merged_they_are_weights_like_any_other(tmp_path):
    network = adapted()
    wanted = network(*GIVEN)
    with pytest.raises(ValueError, match="has adapters in it"):
        network.save_pretrained(tmp_path)
    lora.merge(network)
    assert network.state_dict().keys() == transformer().state_dict().keys()
    assert all(parameter.requires_grad for parameter in network.parameters())
    network.save_pretrained(tmp_path)
    torch.testing.assert_close(ExpertTransformer.from_pretrained(tmp_path)(*GIVEN), wanted, atol=1e-5, rtol=1e-5)


def test_it_compiles_with_adapters():
    network = adapted()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*GIVEN), network(*GIVEN), atol=TOLERANCE, rtol=TOLERANCE)
    torch._dynamo.reset()


def test_what_does_not_fit_is_refused(tmp_path):
    network = transformer()
    with pytest.raises(ValueError, match="no linear layer of the transformer is named to_x"):
        lora.add(network, 4, targets=("to_x",))
    with pytest.raises(ValueError, match="a rank of 0"):
        lora.add(network, 0)
    with pytest.raises(ValueError, match="has no adapters"):
        lora.save(network, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no pytorch_lora_weights\.safetensors"):
        lora.load(network, tmp_path)
    lora.save(adapted(), tmp_path)
    with pytest.raises(ValueError, match="has adapters already"):
        lora.load(adapted(), tmp_path)
    with pytest.raises(ValueError, match=r"of another transformer: transformer_blocks\.0\.attn1\.to_\w+ takes 256"):
        lora.load(ExpertTransformer.from_preset("tiny"), tmp_path)
    (tmp_path / lora.WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="is damaged"):
        lora.load(network, tmp_path)
