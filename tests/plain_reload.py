"""Load a trained folder like any Hugging Face program. Nothing of this toolkit is imported here."""


def reload_and_answer(folder: str, kind: str, prompt: str, out: str) -> None:
    """Load `folder`; save the logits after `prompt` and the text written after it to `out`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    torch.set_num_threads(1)
    if kind == "full":
        model = AutoModelForCausalLM.from_pretrained(folder)
    else:
        from peft import AutoPeftModelForCausalLM

        nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                 bnb_4bit_compute_dtype=torch.float32)  # fmt: skip
        model = AutoPeftModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, **({"quantization_config": nf4} if kind == "qlora" else {})
        )
        for module in model.modules():  # otherwise CPUs with AVX512-BF16 round 4-bit products to bfloat16
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    model.eval()
    with torch.inference_mode():
        logits = model(input_ids=ids).logits
        written = model.generate(input_ids=ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    torch.save({"logits": logits, "written": written.tolist(), "ids": ids.tolist(), "dtype": str(model.dtype),
                "tied": base.get_output_embeddings().weight is base.get_input_embeddings().weight}, out)  # fmt: skip


def reload_and_write(folder: str, prompts: list, out: str) -> None:
    """Load `folder` without this toolkit, and save its answer to each prompt: (token ids, text) of up to 40 tokens.

    An adapter is loaded by peft, and told where to stop by the settings that lie beside it.
    """
    import os

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    torch.set_num_threads(1)
    if os.path.exists(f"{folder}/adapter_config.json"):
        from peft import AutoPeftModelForCausalLM

        model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model.generation_config = GenerationConfig.from_pretrained(folder)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    written = []
    for prompt in prompts:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        tokens = model.generate(input_ids=ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1] :]
        written.append((tokens.tolist(), tokenizer.decode(tokens, skip_special_tokens=True)))
    torch.save(written, out)
