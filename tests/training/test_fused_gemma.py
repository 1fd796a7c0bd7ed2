"""The fused Gemma layer equals transformers with PEFT, and leaves other layers unchanged."""

import pytest
import torch
from linklab.models import tiny
from linklab.training import answer_loss, fused_gemma
from training_runs import add_adapter


@pytest.fixture(scope="module", params=["row", "choices"])
def batch(request, read_links, tokenizer):
    rows = read_links(5, ask=request.param)
    return answer_loss.AnswerCollator(0)(answer_loss.EncodedExamples(rows, tokenizer, 512).items)


def make_model(tokenizer, *, fused, dtype=torch.float32, window=512, **options):
    """Return the tiny model in training mode, with adapters that are not zero."""
    model = tiny.build_model(tokenizer, sliding_window=window).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:  # new ones are 0, and would hide a wrong scale
                parameter.normal_(std=0.3)
    answer_loss.use_answer_only_loss(model)
    model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output.float())
    adapted = add_adapter(model, lora_alpha=12, **options)
    if fused:
        assert fused_gemma.fuse(adapted) == 3
    return adapted


def loss_and_gradients(model, batch):
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("window", [512, 24])
def test_loss_and_gradients_are_those_of_the_plain_layers(window, tokenizer, batch):
    torch.manual_seed(1)
    expected, gradients = loss_and_gradients(make_model(tokenizer, fused=False, window=window), batch)
    torch.manual_seed(1)
    loss, found = loss_and_gradients(make_model(tokenizer, fused=True, window=window), batch)
    assert loss == pytest.approx(expected, abs=1e-5)
    assert len(found) == 3 * 7 * 2
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


def test_bfloat16_differs_from_autocast_by_no_more_than_autocast_from_float32(tokenizer, batch):
    """Both round every product to 8 bits; neither may be further from the truth than twice the other."""
    found = {}
    for name, fused, dtype in (("truth", False, torch.float32), ("autocast", False, torch.bfloat16),
                               ("fused", True, torch.bfloat16)):  # fmt: skip
        torch.manual_seed(1)
        model = make_model(tokenizer, fused=fused, dtype=torch.bfloat16).to(dtype)  # the same rounded weights
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss, gradients = loss_and_gradients(model, batch)
        found[name] = loss, torch.cat([gradient.float().flatten() for gradient in gradients.values()])
    assert found["fused"][0] == pytest.approx(found["truth"][0], rel=2e-3)
    errors = {name: (found[name][1] - found["truth"][1]).norm().item() for name in ("autocast", "fused")}
    assert 0 < errors["fused"] < 2 * errors["autocast"]
    assert errors["fused"] < 0.05 * found["truth"][1].norm().item()


@pytest.mark.parametrize("options", [{"lora_dropout": 0.1}, {"use_dora": True}, {"target_modules": ["q_proj"]}])
def test_layers_that_are_not_plain_lora_stay_unchanged(options, tokenizer):
    assert fused_gemma.fuse(make_model(tokenizer, fused=False, **options)) == 0


def test_a_switched_off_adapter_is_off_in_the_fused_layer_too(tokenizer, batch):
    model = make_model(tokenizer, fused=True)
    with model.disable_adapter():
        off = model(**batch).loss.item()
    torch.manual_seed(1)
    assert off != pytest.approx(model(**batch).loss.item(), abs=1e-4)
    assert model.unload()(**batch).loss.item() == pytest.approx(off, abs=1e-5)


def test_gradient_checkpointing_gives_the_same_gradients(tokenizer, batch):
    torch.manual_seed(1)
    model = make_model(tokenizer, fused=True)
    expected, gradients = loss_and_gradients(model, batch)
    torch.manual_seed(1)
    saving = make_model(tokenizer, fused=True)
    saving.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    loss, found = loss_and_gradients(saving, batch)
    assert loss == pytest.approx(expected, abs=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4, msg=name)
