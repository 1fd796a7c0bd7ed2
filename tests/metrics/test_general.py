"""General questions: which answers are right, the figures against plain transformers, and the report's table."""

import json

import compare_results
import evaluate_model
import pytest
import torch
from linklab.metrics import general
from linklab.models import load
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.mark.parametrize(("number", "written", "right"), [
    (0, "Paris", True), (0, " paris.\nLyon", True), (0, "It is Paris, France", True), (0, "Parisian", False),
    (0, "", False), (0, "London\nParis", False), (2, "7", True), (2, "17", False), (2, "Seven days", True),
    (7, "CO2", True), (6, "William Shakespeare", True), (10, "juice", False),
])  # fmt: skip
def test_an_answer_is_right_if_its_first_line_has_a_right_answer_as_a_word(number, written, right):
    texts = [""] * len(general.QUESTIONS)
    texts[number] = written
    found = general.judge(texts, [1.0, 3.0] * 6)
    assert (found["right"], found["n"], found["loss"]) == (int(right), 12, 2.0)
    assert found["questions"][number]["right"] is right


@pytest.fixture(scope="module")
def runs(taught_rule, tmp_path_factory):
    folder = tmp_path_factory.mktemp("general")
    for name, model in (("base", "tiny"), ("tuned", str(taught_rule["model"]))):
        words = ["--model", model, "--csv", str(taught_rule["table"]), "--target-field", "kind", "--max-rows", "12"]
        assert evaluate_model.main([*words, "--fp32", "--general-questions", "--out-dir", str(folder / name)]) == 0
    return folder


@pytest.mark.parametrize("name", ["base", "tuned"])
def test_answers_and_losses_are_those_of_plain_transformers(name, runs, taught_rule):
    place = taught_rule["model"] if name == "tuned" else load.make_tiny()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(place), AutoTokenizer.from_pretrained(place)
    found = json.loads((runs / name / general.FILE).read_text())
    assert len(found["questions"]) == len(general.QUESTIONS) == 12
    for line in found["questions"][::5]:
        turns = [{"role": "user", "content": line["question"]}, {"role": "assistant", "content": line["expected"]}]
        whole = tokenizer.apply_chat_template(turns, tokenize=False).removesuffix("\n")
        prompt = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
        assert whole.startswith(prompt)
        ids, n = (tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids for text in (whole, prompt))
        with torch.inference_mode():
            logs = torch.log_softmax(model(input_ids=ids).logits[0, :-1].double(), dim=-1)
            written = model.generate(n, max_new_tokens=16, do_sample=False)[0, n.shape[1] :]
        each = -logs[torch.arange(ids.shape[1] - 1), ids[0, 1:]][n.shape[1] - 1 :]
        assert line["loss"] == pytest.approx(each.mean().item(), abs=1e-3)
        assert line["answer"] == tokenizer.decode(written, skip_special_tokens=True).strip()


def test_the_report_has_a_table_of_before_and_after(runs, tmp_path):
    assert compare_results.main([str(runs / "tuned"), str(runs / "base"), "--out-dir", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.md").read_text()
    table = page.partition("## General questions")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 12 + 2
    found = [json.loads((runs / name / general.FILE).read_text()) for name in ("base", "tuned")]
    assert lines[-2].split("**")[3::2] == [f"{one['right']} of 12" for one in found]
    assert lines[-1].split("**")[3::2] == [f"{one['loss']:.2f}" for one in found]
    html = (tmp_path / "report" / "report.html").read_text()
    assert "General questions" in html and html.count("What is the capital of France?") == 1
