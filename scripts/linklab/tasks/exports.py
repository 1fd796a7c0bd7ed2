"""The same conversations in the files that other training programs and benchmarks expect.

Each export is a folder below `exports/` of a converted set and holds copies of the conversations under the names its
program looks for, and the settings file that its documentation asks for. Sources: TRL, "Dataset formats"
(prompt-completion); LLaMA-Factory, data/README (sharegpt with role tags); Axolotl, "Conversation" (chat_template,
eot_tokens); MLX-LM, LORA.md (train/valid/test.jsonl); lm-evaluation-harness, "New task guide"; OpenAI, "Supervised
fine-tuning" (chat format).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from linklab import files
from linklab.tasks.jsonl import read_lines

FOLDER = "exports"
EXAMPLE_BASE = "google/gemma-3-270m-it"  # what the settings files name; any instruction-tuned model does
SPLIT_NAMES = {"train": "train", "validation": "validation", "test": "test"}


def write_exports(folder: Path, programs: Sequence[str], shards: Mapping[str, Sequence[str]]) -> list[Path]:
    """Write the export of each program below `folder`/exports and return the files.

    `programs` are names of PROGRAMS; `shards` maps a split to the names of its JSONL shards in `folder`.
    """
    written: list[Path] = []
    for program in programs:
        target = folder / FOLDER / program
        target.mkdir(parents=True)
        written += PROGRAMS[program](
            target, {split: [folder / name for name in names] for split, names in shards.items()}
        )
    return written


def _write_lines(
    target: Path,
    shards: Mapping[str, Sequence[Path]],
    names: Mapping[str, str],
    make: Callable[[list[dict]], dict],
) -> list[Path]:
    """Write a JSONL file per split that has rows, a line per conversation; returns the files."""
    written = []
    for split, paths in shards.items():
        if split in names and paths:
            written.append(target / f"{names[split]}.jsonl")
            with files.atomic_write(written[-1]) as handle:
                for value, _ in itertools.chain.from_iterable(map(read_lines, paths)):
                    handle.write(json.dumps(make(value["messages"]), ensure_ascii=False) + "\n")
    return written


def _only_messages(messages: list[dict]) -> dict[str, Any]:
    return {"messages": messages}


def _export_trl(target: Path, shards: Mapping[str, Sequence[Path]]) -> list[Path]:
    """Prompt-completion conversations: SFTTrainer then takes the loss on the completion without an option."""
    written = _write_lines(target, shards, SPLIT_NAMES, lambda m: {"prompt": m[:-1], "completion": m[-1:]})
    settings = target / "sft.yaml"
    files.write_text(
        settings,
        f"# trl sft --config sft.yaml\nmodel_name_or_path: {EXAMPLE_BASE}\ndataset_name: ../trl\n"
        "use_peft: true\nlora_r: 16\nlora_alpha: 32\nlora_target_modules: all-linear\nlearning_rate: 5.0e-4\n"
        "per_device_train_batch_size: 8\nnum_train_epochs: 1\noutput_dir: out\n",
    )
    return [*written, settings]


def _export_llamafactory(target: Path, shards: Mapping[str, Sequence[Path]]) -> list[Path]:
    written = _write_lines(target, shards, SPLIT_NAMES, _only_messages)
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
            "system_tag": "system"}  # fmt: skip
    described = {
        f"linklab_{path.stem}": {
            "file_name": path.name, "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags,
        }
        for path in written
    }  # fmt: skip
    files.write_json(target / "dataset_info.json", described)
    files.write_text(
        target / "sft.yaml",
        f"# llamafactory-cli train sft.yaml\nmodel_name_or_path: {EXAMPLE_BASE}\nstage: sft\ndo_train: true\n"
        "finetuning_type: lora\nlora_rank: 16\nlora_target: all\ndataset_dir: .\ndataset: linklab_train\n"
        "eval_dataset: linklab_validation\ntemplate: gemma\ncutoff_len: 512\nlearning_rate: 5.0e-4\n"
        "per_device_train_batch_size: 8\nnum_train_epochs: 1.0\noutput_dir: out\n",
    )
    return [*written, target / "dataset_info.json", target / "sft.yaml"]


def _export_axolotl(target: Path, shards: Mapping[str, Sequence[Path]]) -> list[Path]:
    """`eot_tokens` makes Axolotl train the end of the turn, without which answers do not stop."""
    written = _write_lines(target, shards, SPLIT_NAMES, _only_messages)
    settings = target / "sft.yaml"

    def source(name: str) -> str:
        return (
            f"  - path: {name}.jsonl\n    ds_type: json\n    split: train\n    type: chat_template\n"
            "    field_messages: messages\n    roles_to_train: [assistant]\n    train_on_eos: turn\n"
        )

    files.write_text(
        settings,
        f"# axolotl train sft.yaml\nbase_model: {EXAMPLE_BASE}\nchat_template: tokenizer_default\n"
        f'eot_tokens: ["<end_of_turn>"]\ndatasets:\n{source("train")}test_datasets:\n{source("validation")}'
        "adapter: lora\nlora_r: 16\nlora_alpha: 32\nlora_target_linear: true\nsequence_len: 512\n"
        "micro_batch_size: 8\ngradient_accumulation_steps: 1\nlearning_rate: 5.0e-4\nlr_scheduler: cosine\n"
        "optimizer: adamw_torch\nnum_epochs: 1\noutput_dir: out\n",
    )
    return [*written, settings]


def _export_mlx(target: Path, shards: Mapping[str, Sequence[Path]]) -> list[Path]:
    written = _write_lines(target, shards, SPLIT_NAMES | {"validation": "valid"}, _only_messages)
    settings = target / "lora.yaml"
    files.write_text(
        settings,
        f"# mlx_lm.lora --config lora.yaml\nmodel: {EXAMPLE_BASE}\ntrain: true\ndata: .\nmask_prompt: true\n"
        "batch_size: 8\nlearning_rate: 5.0e-4\nlora_parameters:\n  rank: 16\n  scale: 2.0\n  dropout: 0.0\n",
    )
    return [*written, settings]


def _export_lm_eval(target: Path, shards: Mapping[str, Sequence[Path]]) -> list[Path]:
    def make(messages: list[dict]) -> dict[str, str]:
        return {"question": messages[-2]["content"], "answer": messages[-1]["content"]}

    written = _write_lines(target, shards, SPLIT_NAMES, make)
    settings = target / "linklab.yaml"
    data_files = "".join(f"    {path.stem}: {path.name}\n" for path in written)
    files.write_text(
        settings,
        "# lm_eval --include_path . --tasks linklab --apply_chat_template, run in this folder\n"
        f"task: linklab\ndataset_path: json\ndataset_kwargs:\n  data_files:\n{data_files}"
        'test_split: test\noutput_type: generate_until\ndoc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\n'
        'generation_kwargs:\n  until: ["<end_of_turn>"]\n  max_gen_toks: 64\n  do_sample: false\n'
        "metric_list:\n  - metric: exact_match\n    aggregation: mean\n    higher_is_better: true\n"
        "metadata:\n  version: 1.0\n",
    )
    return [*written, settings]


def _export_openai(target: Path, shards: Mapping[str, Sequence[Path]]) -> list[Path]:
    return _write_lines(target, shards, SPLIT_NAMES, _only_messages)


PROGRAMS: dict[str, Callable[[Path, Mapping[str, Sequence[Path]]], list[Path]]] = {
    "trl": _export_trl,
    "llamafactory": _export_llamafactory,
    "axolotl": _export_axolotl,
    "mlx": _export_mlx,
    "lm-eval": _export_lm_eval,
    "openai": _export_openai,
}
