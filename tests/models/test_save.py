"""--merge-dtype: the merged weights are base plus adapter, in the type of the base model or the one asked for."""

import pytest
import torch
from linklab.models import load, save, tiny
from safetensors.torch import load_file
from training_runs import add_adapter

LAYER = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module", params=["bfloat16", "float32"])
def adapter(request, tmp_path_factory):
    """An adapter that is not zero, on a base model saved in that type; returns (folder, type name, expected weight)."""
    folder, tokenizer = tmp_path_factory.mktemp("merge"), tiny.build_tokenizer()
    base = tiny.build_model(tokenizer).to(getattr(torch, request.param))
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    model = add_adapter(load.load_model(str(folder / "base")), r=2, lora_alpha=6, target_modules=["q_proj"])
    save.save_model(model, tokenizer, folder / "adapter", str(folder / "base"))
    parts = load_file(folder / "adapter" / "adapter_model.safetensors")
    down, up = (parts[f"base_model.model.{LAYER}.lora_{side}.weight"].double() for side in "AB")
    expected = load_file(folder / "base" / "model.safetensors")[f"{LAYER}.weight"].double() + 6 / 2 * up @ down
    return folder / "adapter", request.param, expected


@pytest.mark.parametrize("dtype", ["base", "float32", "bfloat16", "float16"])
def test_merged_weights_are_base_plus_adapter_in_the_type_asked_for(dtype, adapter, tmp_path):
    folder, base_type, expected = adapter
    save.merge_adapter(folder, tmp_path / "merged", dtype)
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    wanted = getattr(torch, base_type if dtype == "base" else dtype)
    assert {weight.dtype for weight in merged.values()} == {wanted}
    step = torch.finfo(wanted).eps  # one rounding, of a sum taken in float32
    torch.testing.assert_close(merged[f"{LAYER}.weight"].double(), expected, rtol=step, atol=1e-6)
