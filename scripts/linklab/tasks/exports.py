"""Export conversations in the file formats of other training programs and benchmarks.

Each export is a folder below `exports/` of a converted set. It holds copies of the conversations under the file names
that the program expects, and a settings file as in its documentation. Sources: TRL, "Dataset formats"
(prompt-completion); LLaMA-Factory, data/README (sharegpt with role tags); Axolotl, "Conversation" (chat_template,
eot_tokens); MLX-LM, LORA.md (train/valid/test.jsonl); lm-evaluation-harness, "New task guide"; OpenAI, "Supervised
fine-tuning" (chat format).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from linklab import files
from linklab.tasks.jsonl import read_lines

FOLDER = "exports"
EXAMPLE_BASE = "google/gemma-3-270m-it"  # the model in the settings files; any instruction-tuned model works


@dataclasses.dataclass(frozen=True)
class Export:
    """A program's format: `make` converts one conversation, `settings` gives (file name -> text) for the files."""

    make: Callable[[list[dict]], dict] = lambda messages: {"messages": messages}
    settings: Callable[[Sequence[Path]], dict[str, str]] = lambda written: {}
    validation: str = "validation"  # the name of the validation split's file


def write_exports(folder: Path, programs: Sequence[str], shards: Mapping[str, Sequence[str]]) -> list[Path]:
    """Write the export of each program below `folder`/exports and return the files.

    `programs` are names of PROGRAMS; `shards` maps a split to the names of its JSONL shards in `folder`.
    """
    written: list[Path] = []
    for program in programs:
        export, target = PROGRAMS[program], folder / FOLDER / program
        target.mkdir(parents=True)
        own = []
        for split, names in shards.items():
            if names:
                own.append(target / f"{export.validation if split == 'validation' else split}.jsonl")
                _write_lines(own[-1], [folder / name for name in names], export.make)
        settings = export.settings(own)
        for name, text in settings.items():
            files.write_text(target / name, text)
        written += [*own, *(target / name for name in settings)]
    return written


def _write_lines(path: Path, shards: Sequence[Path], make: Callable[[list[dict]], dict]) -> None:
    with files.atomic_write(path) as handle:
        for value, _ in itertools.chain.from_iterable(map(read_lines, shards)):
            handle.write(json.dumps(make(value["messages"]), ensure_ascii=False) + "\n")


def _trl(written: Sequence[Path]) -> dict[str, str]:
    """Prompt-completion conversations: for these, SFTTrainer takes the loss on the completion by default."""
    return {
        "sft.yaml": f"# trl sft --config sft.yaml\nmodel_name_or_path: {EXAMPLE_BASE}\ndataset_name: ../trl\n"
        "use_peft: true\nlora_r: 16\nlora_alpha: 32\nlora_target_modules: all-linear\nlearning_rate: 5.0e-4\n"
        "per_device_train_batch_size: 8\nnum_train_epochs: 1\noutput_dir: out\n"
    }


def _llamafactory(written: Sequence[Path]) -> dict[str, str]:
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
            "system_tag": "system"}  # fmt: skip
    described = {
        f"linklab_{path.stem}": {
            "file_name": path.name, "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags,
        }
        for path in written
    }  # fmt: skip
    return {
        "dataset_info.json": files.json_text(described),
        "sft.yaml": f"# llamafactory-cli train sft.yaml\nmodel_name_or_path: {EXAMPLE_BASE}\nstage: sft\n"
        "do_train: true\nfinetuning_type: lora\nlora_rank: 16\nlora_target: all\ndataset_dir: .\n"
        "dataset: linklab_train\neval_dataset: linklab_validation\ntemplate: gemma\ncutoff_len: 512\n"
        "learning_rate: 5.0e-4\nper_device_train_batch_size: 8\nnum_train_epochs: 1.0\noutput_dir: out\n",
    }


def _axolotl(written: Sequence[Path]) -> dict[str, str]:
    """`eot_tokens` makes Axolotl train on the end of the turn; without it, answers do not stop."""

    def source(name: str) -> str:
        return (
            f"  - path: {name}.jsonl\n    ds_type: json\n    split: train\n    type: chat_template\n"
            "    field_messages: messages\n    roles_to_train: [assistant]\n    train_on_eos: turn\n"
        )

    return {
        "sft.yaml": f"# axolotl train sft.yaml\nbase_model: {EXAMPLE_BASE}\nchat_template: tokenizer_default\n"
        f'eot_tokens: ["<end_of_turn>"]\ndatasets:\n{source("train")}test_datasets:\n{source("validation")}'
        "adapter: lora\nlora_r: 16\nlora_alpha: 32\nlora_target_linear: true\nsequence_len: 512\n"
        "micro_batch_size: 8\ngradient_accumulation_steps: 1\nlearning_rate: 5.0e-4\nlr_scheduler: cosine\n"
        "optimizer: adamw_torch\nnum_epochs: 1\noutput_dir: out\n"
    }


def _mlx(written: Sequence[Path]) -> dict[str, str]:
    return {
        "lora.yaml": f"# mlx_lm.lora --config lora.yaml\nmodel: {EXAMPLE_BASE}\ntrain: true\ndata: .\n"
        "mask_prompt: true\nbatch_size: 8\nlearning_rate: 5.0e-4\n"
        "lora_parameters:\n  rank: 16\n  scale: 2.0\n  dropout: 0.0\n"
    }


def _lm_eval(written: Sequence[Path]) -> dict[str, str]:
    data_files = "".join(f"    {path.stem}: {path.name}\n" for path in written)
    return {
        "linklab.yaml": "# lm_eval --include_path . --tasks linklab --apply_chat_template, run in this folder\n"
        f"task: linklab\ndataset_path: json\ndataset_kwargs:\n  data_files:\n{data_files}"
        'test_split: test\noutput_type: generate_until\ndoc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\n'
        'generation_kwargs:\n  until: ["<end_of_turn>"]\n  max_gen_toks: 64\n  do_sample: false\n'
        "metric_list:\n  - metric: exact_match\n    aggregation: mean\n    higher_is_better: true\n"
        "metadata:\n  version: 1.0\n"
    }


PROGRAMS = {
    "trl": Export(lambda messages: {"prompt": messages[:-1], "completion": messages[-1:]}, _trl),
    "llamafactory": Export(settings=_llamafactory),
    "axolotl": Export(settings=_axolotl),
    "mlx": Export(settings=_mlx, validation="valid"),
    "lm-eval": Export(lambda m: {"question": m[-2]["content"], "answer": m[-1]["content"]}, _lm_eval),
    "openai": Export(),
}
