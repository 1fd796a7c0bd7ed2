"""Existing conversations: trained on, answered, compared with baselines; a bad line stops every script."""

import json

import compare_results
import evaluate_model
import finetune_gemma_from_csv as finetune
import pytest
import run_baselines


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    path = tmp_path_factory.mktemp("talks") / "talks.jsonl"
    with open(path, "w") as handle:
        for i in range(120):
            texts = [f"what is {i % 12} plus {i // 12}", f"{i % 12 + i // 12}"] + ["thanks", "welcome"] * (i % 2)
            turns = [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(texts)]
            handle.write(json.dumps({"messages": turns}) + "\n")
    return path


def test_conversations_of_others_are_trained_on_scored_as_text_and_compared(talks, tmp_path):
    data = ["--data", str(talks)]
    tiny = ["--base-model", "tiny", "--mode", "full", "--max-steps", "1", "--out-dir", str(tmp_path / "trained")]
    assert finetune.main([*data, *tiny]) == 0
    assert run_baselines.main([*data, "--out-dir", str(tmp_path / "baselines")]) == 0
    words = ["--model", str(tmp_path / "trained" / "model"), "--max-new-tokens", "8"]
    assert evaluate_model.main([*data, *words, "--out-dir", str(tmp_path / "tuned")]) == 0
    scores = json.loads((tmp_path / "tuned" / "metrics.json").read_text())
    assert scores["targets"] == ["reply"] and scores["description"] == "free greedy writing"
    runs = [str(tmp_path / "baselines"), str(tmp_path / "tuned")]
    assert compare_results.main([*runs, "--out-dir", str(tmp_path / "report")]) == 0
    assert "| nearest_row |" in (tmp_path / "report" / "comparison.md").read_text()
    manifest = json.loads((tmp_path / "tuned" / "manifest.json").read_text())
    assert str(talks) in {entry["path"] for entry in manifest["inputs"]}


def test_a_line_that_is_not_a_conversation_stops_every_script(talks, tmp_path, capsys):
    bad = tmp_path / "bad.jsonl"
    bad.write_text(talks.read_text() + '{"messages": "hello"}\n')
    for script, words in (
        (finetune, ["--base-model", "tiny"]),
        (run_baselines, []),
        (evaluate_model, ["--model", "tiny"]),
    ):
        assert script.main(["--data", str(bad), *words, "--out-dir", str(tmp_path / "out")]) == 2
        assert f"{bad}:121: no list 'messages'; expected " in capsys.readouterr().err
