"""--export-for: each program's files load as its documentation says, and hold the same conversations."""

import json

import convert_csv_to_jsonl
import pytest
import yaml
from linklab.models import load

PROGRAMS = ("trl", "llamafactory", "axolotl", "mlx", "lm-eval", "openai")


@pytest.fixture(scope="module")
def converted(rule_table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "set"
    words = ["--csv", str(rule_table), "--target-field", "kind", "--out-dir", str(folder)]
    assert convert_csv_to_jsonl.main([*words, "--export-for", ",".join(PROGRAMS)]) == 0
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def shard(folder, split):
    return [line["messages"] for line in lines(folder / f"{split}-00000-of-00001.jsonl")]


@pytest.mark.parametrize("program", [program for program in PROGRAMS if program != "lm-eval"])
def test_an_export_holds_the_same_conversations_and_nothing_else(converted, program):
    for split in ("train", "validation", "test"):
        own = "valid" if program == "mlx" and split == "validation" else split
        found = lines(converted / "exports" / program / f"{own}.jsonl")
        assert {tuple(line) for line in found} == {("prompt", "completion") if program == "trl" else ("messages",)}
        assert [sum(line.values(), []) for line in found] == shard(converted, split) and len(found) > 10


def test_trls_settings_name_a_data_set_that_loads_in_its_folder(converted, monkeypatch):
    """datasets cannot load ".", because that path has no folder name."""
    from datasets import load_dataset

    folder = converted / "exports" / "trl"
    monkeypatch.chdir(folder)
    rows = load_dataset(yaml.safe_load((folder / "sft.yaml").read_text())["dataset_name"])
    assert {split: len(own) for split, own in rows.items()} == {
        split: len(lines(folder / f"{split}.jsonl")) for split in ("train", "validation", "test")
    }


def test_llamafactory_describes_each_file_with_the_tags_of_its_messages(converted):
    folder = converted / "exports" / "llamafactory"
    described = json.loads((folder / "dataset_info.json").read_text())
    settings = yaml.safe_load((folder / "sft.yaml").read_text())
    assert {settings["dataset"], settings["eval_dataset"]} <= described.keys()
    for entry in described.values():
        assert (folder / entry["file_name"]).exists() and entry["formatting"] == "sharegpt"
        tags = entry["tags"]
        turn = lines(folder / entry["file_name"])[0][entry["columns"]["messages"]][0]
        assert turn[tags["role_tag"]] == tags["user_tag"] and turn[tags["content_tag"]]


def test_axolotl_trains_the_end_of_the_turn(converted):
    folder = converted / "exports" / "axolotl"
    settings = yaml.safe_load((folder / "sft.yaml").read_text())
    assert settings["eot_tokens"] == ["<end_of_turn>"]
    for entry in settings["datasets"] + settings["test_datasets"]:
        assert (folder / entry["path"]).exists()
        assert (entry["type"], entry["field_messages"]) == ("chat_template", "messages")


def test_lm_eval_asks_the_question_and_expects_the_answer(converted):
    jinja2 = pytest.importorskip("jinja2")
    folder = converted / "exports" / "lm-eval"
    task = yaml.safe_load((folder / "linklab.yaml").read_text())
    documents = lines(folder / task["dataset_kwargs"]["data_files"][task["test_split"]])
    for document, messages in zip(documents, shard(converted, "test"), strict=True):
        asked, expected = (jinja2.Template(task[key]).render(document) for key in ("doc_to_text", "doc_to_target"))
        assert [asked, expected] == [turn["content"] for turn in messages]


def test_an_unknown_program_is_refused_by_name(rule_table, tmp_path, capsys):
    words = ["--csv", str(rule_table), "--target-field", "kind", "--out-dir", str(tmp_path / "set")]
    assert convert_csv_to_jsonl.main([*words, "--export-for", "trl,unsloth"]) == 2
    assert "--export-for unsloth: not known; the programs are: trl, llamafactory" in capsys.readouterr().err


@pytest.mark.slow
def test_trl_trains_two_steps_on_its_export(converted, tmp_path):
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = load.load_model("tiny"), load.load_tokenizer("tiny")
    rows = load_dataset("json", data_files=str(converted / "exports" / "trl" / "train.jsonl"), split="train")
    arguments = SFTConfig(
        output_dir=str(tmp_path), max_steps=2, report_to=[], use_cpu=True, logging_steps=1, bf16=False
    )
    trainer = SFTTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    assert trainer.state.global_step == 2 and trainer.state.log_history[0]["loss"] > 0
