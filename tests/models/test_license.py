"""The card of a fine-tuned model has the license of its base model's card, and code that loads the model."""

import families
import finetune_gemma_from_csv as finetune
import huggingface_hub
import pytest
from linklab.models import license, load


@pytest.mark.parametrize(("card", "expected"), [
    ("license: apache-2.0", "apache-2.0"), ("license: other\nlicense_name: llama3.2", "llama3.2"), ("tags: []", None),
])  # fmt: skip
def test_the_license_is_that_of_the_base_models_card(card, expected, tmp_path):
    (tmp_path / "README.md").write_text(f"---\n{card}\n---\n\n# Somebody's model\n")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert license.license_of(str(tmp_path)) == expected


def test_a_gemma_model_without_a_card_has_gemmas_license(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gemma3_text"}')
    for name in ("tiny", "embedded", str(tmp_path)):
        assert license.license_of(name) == "gemma"


def test_a_model_trained_from_an_apache_base_has_its_license_and_does_not_mention_gemma(rule_table, tmp_path):
    base = families.save_family("llama", tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    out = tmp_path / "out"
    words = ["--csv", str(rule_table), "--target-field", "kind", "--base-model", str(base), "--max-rows", "16"]
    words += ["--max-steps", "1", "--report-to", "none", "--merge", "--fp32"]
    assert finetune.main([*words, "--out-dir", str(out)]) == 0
    for part, library in (("model", "peft"), ("merged", "transformers")):
        card = huggingface_hub.ModelCard.load(out / part / "README.md")
        assert (card.data.license, card.data.library_name) == ("apache-2.0", library)
        assert card.data.eval_results[0].metric_type == "loss"
        assert "the license of that model applies: apache-2.0." in card.text and "Gemma" not in card.text
        code = card.text.split("```python\n")[1].split("\n```")[0]
        compile(code, "card", "exec")
        assert len(code.splitlines()) == 5
    assert license.license_of(str(out / "model")) == "apache-2.0"  # also for a model trained from this one
    assert "apache-2.0" in license.notice("apache-2.0", "me/base") and load.root_model(str(out / "model")) == str(base)
