"""Low-rank adapters: trained here, loaded by diffusers, and back."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from helpers_model import ROPE, TOLERANCE, diffusers_rope, diffusers_transformer, inputs, transformer
from safetensors.torch import save_file

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


def tensors() -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(adapted(), adapter_name="default")
    return {f"transformer.{name}": tensor.detach().clone() for name, tensor in found.items()}


LAYER = "transformer.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("change", "metadata", "message"),
    [
        (lambda t: t.pop(f"{LAYER}.lora_B.weight"), {}, "only half of the adapter of transformer_blocks.0.attn1.to_q"),
        (lambda t: t.update({f"{LAYER}.alpha": torch.ones(())}), {}, "to_q.alpha; rushes reads plain LoRA"),
        (lambda t: t.update({f"{LAYER}.lora_B.bias": torch.ones(64)}), {}, "to_q.lora_B.bias; rushes reads plain"),
        (
            lambda t: t.update({f"{LAYER}.lora_B.weight": torch.ones(64, 5)}),
            {},
            r"its adapter is \[4, 64\] and \[64, 5\]",
        ),
        (lambda t: None, {"use_dora": True}, "was made with use_dora"),
        (
            lambda t: t.update({f"transformer.patch_embed.proj.lora_{s}.weight": torch.ones(4, 4, 1, 1) for s in "AB"}),
            {},
            "adapts patch_embed.proj, which is no linear layer",
        ),
        (lambda t: t.clear(), {}, "holds no adapters"),
    ],
)
def test_adapters_of_other_kinds_are_refused_and_change_nothing(change, metadata, message, tmp_path):
    state = tensors()
    change(state)
    said = {f"transformer.{name}": value for name, value in metadata.items()}
    save_file(state, tmp_path / lora.WEIGHTS, metadata={"lora_adapter_metadata": json.dumps(said)})
    network = transformer()
    before = network(*GIVEN)
    with pytest.raises(ValueError, match=message):
        lora.load(network, tmp_path)
    assert torch.equal(network(*GIVEN), before)
    lora.save(adapted(), tmp_path)
    lora.load(network, tmp_path)  # the right file can still be loaded


@pytest.mark.parametrize(
    "settings",
    [{"rank_pattern": {"to_k": 2}}, {"use_rslora": True}, {"alpha_pattern": {"to_v": 32}}],
    ids=lambda settings: next(iter(settings)),
)
def test_ranks_and_scales_of_single_layers_are_kept(settings, tmp_path):
    import peft
    from diffusers import CogVideoXPipeline

    theirs = diffusers_transformer(transformer(), tmp_path / "base")
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=list(lora.TARGETS), **settings)
    theirs.add_adapter(config)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=generator)
    wanted = theirs(*GIVEN, image_rotary_emb=diffusers_rope(ROPE, 3, 6, 8)).sample
    CogVideoXPipeline.save_lora_weights(
        tmp_path / "lora",
        transformer_lora_layers=peft.get_peft_model_state_dict(theirs, adapter_name="default"),
        transformer_lora_adapter_metadata=config.to_dict(),
    )
    network = transformer()
    lora.load(network, tmp_path / "lora")
    torch.testing.assert_close(network(*GIVEN), wanted, atol=TOLERANCE, rtol=TOLERANCE)
    lora.save(network, tmp_path / "again")
    again = transformer()
    lora.load(again, tmp_path / "again")
    torch.testing.assert_close(again(*GIVEN), wanted, atol=TOLERANCE, rtol=TOLERANCE)


def test_where_peft_cannot_be_imported_the_way_out_is_named():
    """In a process where only the model was imported: adapters, or what to do."""
    code = (
        "from model import lora; from model.transformer import ExpertTransformer\n"
        "network = ExpertTransformer.from_preset('tiny')\n"
        "try: print(len(lora.add(network, 2)))\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "24" or "install one that matches" in done.stdout, done.stderr
