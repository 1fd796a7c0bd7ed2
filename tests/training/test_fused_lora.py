"""The fused LoRA product equals PEFT's, forwards and backwards, and leaves other layers unchanged."""

import copy

import pytest
import torch
from linklab.training import fused_lora
from peft import LoraConfig, get_peft_model


def make_model(**options):
    """Return a PEFT model of one linear layer, 12 -> 20, with an adapter that is not zero."""
    torch.manual_seed(3)
    base = torch.nn.Sequential(torch.nn.Linear(12, 20, bias=options.pop("base_bias", False)))
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=12, target_modules=["0"], **options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return model


def test_value_and_gradients_are_pefts_own():
    plain = make_model()
    fused = copy.deepcopy(plain)
    assert fused_lora.fuse(fused) == 1
    x = torch.randn(3, 5, 12)
    found = []
    for model in (plain, fused):
        inputs = x.clone().requires_grad_()
        out = model(inputs)
        (out**2).sum().backward()
        found.append([out, inputs.grad, *(p.grad for p in model.parameters() if p.requires_grad)])
    assert len(found[0]) == 4
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)  # sums of 60 products, in another order


def test_gradients_agree_with_finite_differences():
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 5), (2, 5), (4, 2), (3, 5), (7, 3), (4, 5), (7, 5))  # x; A and B of two layers; their weights
    x, *parts = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    a, b, c, d, first, second = parts
    for tensor in (x, a, b, c, d):
        tensor.requires_grad_()

    def multiply(x, a, b, c, d):
        return fused_lora.product().apply(x, (1.5, 0.7), first, a, b, second, c, d)

    for got, expected in zip(
        multiply(x, a, b, c, d), (x @ first.T + 1.5 * x @ a.T @ b.T, x @ second.T + 0.7 * x @ c.T @ d.T), strict=True
    ):
        torch.testing.assert_close(got, expected)
    assert torch.autograd.gradcheck(multiply, (x, a, b, c, d))


@pytest.mark.filterwarnings("ignore:.*lora_bias=True.*has no bias:UserWarning")
@pytest.mark.parametrize("options", [{"lora_dropout": 0.1}, {"use_dora": True}, {"base_bias": True},
                                     {"bias": "lora_only", "lora_bias": True}])  # fmt: skip
def test_other_layers_keep_pefts_forward(options):
    assert fused_lora.fuse(make_model(**options)) == 0


def test_a_switched_off_adapter_and_an_evaluating_model_take_pefts_way():
    model = make_model()
    fused_lora.fuse(model)
    x = torch.randn(2, 12)
    with model.disable_adapter():
        torch.testing.assert_close(model(x), x @ model.base_model.model[0].base_layer.weight.T)
    training = model(x)
    torch.testing.assert_close(model.eval()(x), training, atol=1e-5, rtol=1e-5)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(x), training, atol=1e-5, rtol=1e-5)
