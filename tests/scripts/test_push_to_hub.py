"""push_to_hub.py: only checked files are sent, without names of this machine, and all in one commit."""

import functools
import json
import shutil
from pathlib import Path
from unittest.mock import create_autospec

import datasets
import evaluate_model
import finetune_gemma_from_csv
import generate_synthetic_smoke
import huggingface_hub
import push_to_hub
import pytest
from linklab import files, publish
from linklab.manifest import MANIFEST
from linklab.models import tiny
from peft import PeftConfig

TERMS = ["--license", "gemma"]


@pytest.fixture(scope="module")
def trained(rule_table, tmp_path_factory):
    """An adapter of a base model in a folder, its merged model, and its evaluations on test and validation rows."""
    folder = tmp_path_factory.mktemp("trained")
    tokenizer = tiny.build_tokenizer()
    for part in (tiny.build_model(tokenizer), tokenizer):
        part.save_pretrained(folder / "base")
    data = ["--csv", str(rule_table), "--target-field", "kind"]
    words = [*data, "--base-model", str(folder / "base"), "--out-dir", str(folder / "lora"), "--max-steps", "2"]
    words += ["--max-rows", "32", "--validation-rows", "8", "--merge", "--fp32"]
    assert finetune_gemma_from_csv.main(words) == 0
    for name, part, split in (
        ("test", "model", "test"),
        ("validation", "model", "validation"),
        ("merged", "merged", "test"),
    ):
        words = ["--model", str(folder / "lora" / part), *data, "--split", split, "--out-dir", str(folder / name)]
        assert evaluate_model.main([*words, "--max-rows", "8", "--fp32"]) == 0
    return folder


@pytest.fixture
def api(monkeypatch):
    """An imitation of the Hub's client with the signatures of the real one; its repositories are private."""
    stand_in = create_autospec(huggingface_hub.HfApi)
    stand_in.return_value.repo_info.return_value.private = True
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(huggingface_hub, "HfApi", stand_in)
    return stand_in


def push(folder, *words):
    return push_to_hub.main([str(folder), "--repo", "me/it", *map(str, words)])


def push_model(trained, *words):
    return push(trained / "lora", *TERMS, "--base-model", "me/base", "--evaluation", trained / "test", *words)


def sent(api):
    """The name and bytes of every file in the one commit."""
    (call,) = api().create_commit.call_args_list
    operations = call.args[1]
    return {o.path_in_repo: o.path_or_fileobj if isinstance(o.path_or_fileobj, bytes)
            else Path(o.path_or_fileobj).read_bytes() for o in operations}  # fmt: skip


def said(capfd):
    return capfd.readouterr().err


def test_a_model_is_sent_in_one_commit_with_its_scores_and_license_terms(trained, api, tmp_path, capfd):
    assert push_model(trained) == 0
    api.assert_called_once_with(token="hf_secret")
    api().create_repo.assert_called_once_with("me/it", repo_type="model", private=True, exist_ok=True)
    uploaded = sent(api)
    assert set(uploaded) == {*(p.name for p in (trained / "lora" / "model").iterdir()), "NOTICE", "metrics.json"}
    assert (
        uploaded["adapter_model.safetensors"] == (trained / "lora" / "model" / "adapter_model.safetensors").read_bytes()
    )
    assert uploaded["NOTICE"].startswith(
        b"Gemma is provided under and subject to the Gemma Terms of Use found at ai.goo"
    )
    assert uploaded["metrics.json"] == (trained / "test" / "metrics.json").read_bytes()
    card = huggingface_hub.ModelCard(uploaded["README.md"].decode())
    assert (card.data.license, card.data.base_model, card.data.library_name) == ("gemma", "me/base", "peft")
    accuracy = json.loads(uploaded["metrics.json"])["metrics"]["kind/accuracy"]
    assert f"| kind | accuracy | {100 * accuracy['value']:.1f} % | [" in card.text and "8 rows of the test" in card.text
    (tmp_path / "adapter_config.json").write_bytes(uploaded["adapter_config.json"])
    assert PeftConfig.from_pretrained(tmp_path).base_model_name_or_path == "me/base"
    assert "hf_secret" not in said(capfd)


def test_no_path_of_this_machine_is_sent(trained, rule_table, api):
    assert push_model(trained) == 0
    for name, content in sent(api).items():
        assert not any(str(folder).encode() in content for folder in (trained, rule_table.parent, Path.home())), name


def test_the_merged_model_is_sent_only_with_its_own_scores(trained, api, capfd):
    assert push_model(trained, "--merged") == 1
    assert "scored another model" in said(capfd) and not api().create_commit.called
    assert (
        push(trained / "lora", *TERMS, "--base-model", "me/base", "--evaluation", trained / "merged", "--merged") == 0
    )
    assert "model.safetensors" in sent(api) and "adapter_config.json" not in sent(api)
    assert huggingface_hub.ModelCard(sent(api)["README.md"].decode()).data.library_name == "transformers"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--license", "mit", "--base-model", "me/base", "--evaluation", "test"], "it is 'mit'; pass --license gemma"),
        ([*TERMS, "--base-model", "me/base"], "no scores on unseen rows; score it with evaluate_model.py"),
        ([*TERMS, "--base-model", "me/base", "--evaluation", "validation"], "scored the validation rows"),
        ([*TERMS, "--evaluation", "test"], "give its name on the Hub with --base-model OWNER/NAME"),
    ],
)
def test_a_model_with_a_problem_is_not_sent_and_the_problem_is_named(trained, api, capfd, words, problem):
    words = [trained / word if word in ("test", "validation") else word for word in words]
    assert push(trained / "lora", *words) == 1
    told = said(capfd)
    assert problem in told and "1 of 4 checks failed; nothing was sent" in told
    assert not api.called


def test_a_changed_file_is_not_sent(trained, tmp_path, api, capfd):
    shutil.copytree(trained / "lora", tmp_path / "lora")
    weights = tmp_path / "lora" / "model" / "adapter_model.safetensors"
    *content, last = weights.read_bytes()
    weights.write_bytes(bytes([*content, last ^ 1]))
    words = [*TERMS, "--base-model", "me/base", "--evaluation", trained / "test"]
    assert push(tmp_path / "lora", *words) == 1
    assert "adapter_model.safetensors changed" in said(capfd) and not api.called


def test_a_link_that_leads_out_of_the_folder_is_not_followed(small_links, tmp_path, api, capfd):
    folder = tmp_path / "jsonl"
    shutil.copytree(small_links / "jsonl", folder)
    shutil.move(folder / "README.md", tmp_path / "README.md")
    (folder / "README.md").symlink_to(tmp_path / "README.md")
    assert push(folder, "--license", "cc-by-4.0") == 1
    assert "is a link to a file outside the folder" in said(capfd)
    assert not api().create_commit.called


def test_the_toy_model_is_never_sent(taught_rule, api, capfd):
    words = [*TERMS, "--base-model", "me/base", "--evaluation", taught_rule["evaluation"]]
    assert push(taught_rule["model"].parent, *words) == 1
    assert "it is a toy model for tests" in said(capfd) and not api.called


def test_conversations_go_with_a_license_and_load_as_they_did(small_links, api, tmp_path):
    assert push(small_links / "jsonl", "--license", "cc-by-4.0") == 0
    api().create_repo.assert_called_once_with("me/it", repo_type="dataset", private=True, exist_ok=True)
    for name, content in sent(api).items():
        (tmp_path / name).write_bytes(content)
    assert huggingface_hub.DatasetCard.load(tmp_path / "README.md").data.license == "cc-by-4.0"
    there, here = (datasets.load_dataset(str(path), cache_dir=str(tmp_path / "cache")) for path in
                   (tmp_path, small_links / "jsonl"))  # fmt: skip
    assert {split: there[split].to_list() for split in there} == {split: here[split].to_list() for split in here}
    assert MANIFEST not in sent(api)  # it names folders of this machine


def test_conversations_with_a_group_in_two_splits_are_not_sent(small_links, tmp_path, api, capfd):
    shutil.copytree(small_links / "jsonl", tmp_path / "jsonl")
    train, test = (next((tmp_path / "jsonl").glob(f"{split}-*")) for split in ("train", "test"))
    test.write_text(test.read_text() + train.read_text().splitlines()[0] + "\n")
    hash_again(tmp_path / "jsonl", test)
    assert push(tmp_path / "jsonl", "--license", "cc-by-4.0") == 1
    assert "is in train too" in said(capfd) and not api.called


def test_a_set_with_a_violation_is_not_sent(tmp_path, api, capfd):
    assert generate_synthetic_smoke.main(["--out-dir", str(tmp_path / "set")]) == 0
    assert push(tmp_path / "set", "--license", "cc0-1.0") == 0
    assert set(sent(api)) == {"README.md", "links.csv", "links.zip"}
    table = tmp_path / "set" / "links.csv"
    table.write_text(table.read_text().replace(",rural,", ",lunar,", 1))
    hash_again(tmp_path / "set", table)
    api.reset_mock()
    assert push(tmp_path / "set", "--license", "cc0-1.0") == 1
    assert "links.csv failed: 1 violation in 50 rows" in said(capfd) and not api.called


def hash_again(folder, path):
    """Write a file's new hash into the manifest, like someone who changed the file on purpose."""
    manifest = json.loads((folder / MANIFEST).read_text())
    (entry,) = (entry for entry in manifest["outputs"] if entry["path"] == path.name)
    entry |= {"sha256": files.sha256_file(path), "bytes": path.stat().st_size}
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("license", ["gemma", "CC BY 4.0", ""])
def test_data_need_a_license_as_the_hub_spells_it(small_links, api, capfd, license):
    assert push(small_links / "jsonl", "--license", license) == 1
    assert "use the Hub's spelling of a data license, such as cc-by-4.0" in said(capfd)


def test_a_public_repository_needs_the_option_public(small_links, api, capfd):
    api.return_value.repo_info.return_value.private = False
    assert push(small_links / "jsonl", "--license", "cc-by-4.0") == 2
    assert "me/it already exists and is public; nothing was sent" in said(capfd)
    assert not api().create_commit.called
    assert push(small_links / "jsonl", "--license", "cc-by-4.0", "--public") == 0
    assert api().create_repo.call_args.kwargs["private"] is False and api().create_commit.called


def test_a_dry_run_needs_no_token_and_sends_nothing(trained, monkeypatch, capfd):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    assert push_model(trained, "--dry-run") == 0
    told = said(capfd)
    assert told.count("ok  ") == 4 and "bytes  adapter_model.safetensors" in told and "nothing was sent" in told


def test_the_token_is_asked_for_before_any_work(small_links, monkeypatch, capfd):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(publish, "pack", None)
    assert push(small_links / "jsonl", "--license", "cc-by-4.0") == 2
    assert "set HF_TOKEN" in said(capfd)


def test_a_base_in_a_folder_called_base_does_not_rewrite_the_card(trained, tmp_path, api):
    shutil.copytree(trained / "lora", tmp_path / "lora")
    training = json.loads((tmp_path / "lora" / "metrics.json").read_text())
    training |= {"model": "base", "settings": training["settings"] | {"base_model": "base"}}
    (tmp_path / "lora" / "metrics.json").write_text(json.dumps(training))
    hash_again(tmp_path / "lora", tmp_path / "lora" / "metrics.json")
    assert push(tmp_path / "lora", *TERMS, "--base-model", "me/it", "--evaluation", trained / "test") == 0
    card = huggingface_hub.ModelCard(sent(api)["README.md"].decode())
    assert card.data.to_dict()["base_model"] == "me/it" and "| base_model | me/it |" in card.text


def test_a_hub_that_cannot_be_reached_is_one_clear_line(small_links, monkeypatch, capfd):
    nowhere = functools.partial(huggingface_hub.HfApi, endpoint="http://127.0.0.1:9")  # the real client, no network
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(huggingface_hub, "HfApi", nowhere)
    assert push(small_links / "jsonl", "--license", "cc-by-4.0") == 2
    line = said(capfd).splitlines()[-1]
    assert line.startswith("error: --repo me/it: ") and "onnection refused" in line and "hf_secret" not in line


def test_the_reason_for_not_sending_is_named(trained, small_links, capfd):
    assert push(trained / "test", *TERMS, "--dry-run") == 2
    assert "was written by evaluate_model.py" in said(capfd)
    assert push(small_links / "jsonl", "--license", "mit", "--merged", "--dry-run") == 2
    assert "is not a training" in said(capfd)
    assert push_model(trained, "--base-model", "base", "--dry-run") == 2
    assert "a name on the Hub is OWNER/NAME" in said(capfd)
