"""Load every export with the program it is written for, and save a table of what was read.

nothing -> benchmarks/results/exports.md

    python benchmarks/check_exports.py --venvs runs/programs

Each program is installed from PyPI into its own environment, which also sees the packages of this one (LLaMA-Factory
and Axolotl without their pins of older packages). It must read exactly the conversations of the converted set.
OpenAI's client does not check files, so its export is checked against the request types that its package declares.
"""

from __future__ import annotations

import argparse
import json
import os
import site
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import bench
from linklab import cli
from linklab.models import load

# Each prints {"how": what was called, "rows": training rows it read, "first": [prompt, answer] of the first}.
TRL = """
from trl import TrlParser, ScriptArguments, SFTConfig, ModelConfig, SFTTrainer
parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig))
words = ["--config", "sft.yaml", "--use_cpu", "true", "--bf16", "false"]
script, arguments, model = parser.parse_args_and_config(words)
from datasets import load_dataset
rows = load_dataset(script.dataset_name, split="train")
found("sft.yaml by TrlParser, train.jsonl by load_dataset", len(rows),
      [rows[0]["prompt"][-1]["content"], rows[0]["completion"][0]["content"]])
"""
LLAMAFACTORY = """
import importlib.machinery, types
audio = types.ModuleType("torchaudio")  # imported for speech, which no row here has
audio.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
sys.modules["torchaudio"] = audio
import yaml
from llamafactory.data.loader import _load_single_dataset
from llamafactory.data.parser import get_dataset_list
from llamafactory.hparams.parser import _parse_train_args
given = yaml.safe_load(open("sft.yaml")) | {"report_to": "none"}
model, data, training, *_ = _parse_train_args(given)
train, judged = get_dataset_list(data.dataset + data.eval_dataset, data.dataset_dir)
rows = _load_single_dataset(train, model, data, training)
assert len(_load_single_dataset(judged, model, data, training)) > 0
found("sft.yaml by its argument parser, dataset_info.json and both files by its loader", len(rows),
      [rows[0]["_prompt"][-1]["content"], rows[0]["_response"][0]["content"]])
"""
AXOLOTL = """
import json, yaml
from axolotl.utils.schemas.config import AxolotlInputConfig
settings = AxolotlInputConfig(**yaml.safe_load(open("sft.yaml")))
assert settings.eot_tokens == ["<end_of_turn>"]
from datasets import load_dataset
source = settings.datasets[0]
rows = load_dataset(source.ds_type, data_files=source.path, split=source.split)
found("sft.yaml by its schema (AxolotlInputConfig); its data_files by load_dataset, as it calls it", len(rows),
      [turn["content"] for turn in rows[0][source.field_messages][-2:]])
"""
MLX = """
import types, yaml
from mlx_lm.lora import CONFIG_DEFAULTS
from mlx_lm.tuner.datasets import load_dataset
from transformers import AutoTokenizer
given = yaml.safe_load(open("lora.yaml"))
assert set(given) <= set(CONFIG_DEFAULTS), set(given) - set(CONFIG_DEFAULTS)
tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
train, valid, test = load_dataset(types.SimpleNamespace(**CONFIG_DEFAULTS | given), tokenizer)
tokens, start = train.process(train[0])
turns = [turn.split("\\n", 1)[1] for turn in tokenizer.decode(tokens).split("<start_of_turn>")[1:]]
assert len(valid) and len(test)
found("lora.yaml against its defaults, the three files by its load_dataset, the loss from the answer on", len(train),
      [turns[0].split("<end_of_turn>")[0], tokenizer.decode(tokens[start:]).split("<end_of_turn>")[0]])
"""
LM_EVAL = """
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
scores = simple_evaluate(model="hf", model_args={"pretrained": TOKENIZER}, tasks=["linklab"], limit=3, device="cpu",
                         task_manager=TaskManager(include_path="."), apply_chat_template=True, log_samples=True)
assert scores["results"]["linklab"]["exact_match,none"] is not None
task = TaskManager(include_path=".").load_task_or_group("linklab")["linklab"]
document = task.dataset["train"][0]
found("linklab.yaml by TaskManager, three rows asked of the tiny model and scored by exact_match",
      len(task.dataset["train"]), [task.doc_to_text(document), task.doc_to_target(document)])
"""
OPENAI = """
import json, pydantic
from openai.types.chat import ChatCompletionMessageParam
adapter = pydantic.TypeAdapter(list[ChatCompletionMessageParam])
rows = [json.loads(line) for line in open("train.jsonl", encoding="utf-8")]
for row in rows:
    assert set(row) == {"messages"}
    adapter.validate_python(row["messages"])
found("every line against the message types of its client", len(rows),
      [turn["content"] for turn in rows[0]["messages"][-2:]])
"""
# program: (its package, arguments of pip install, code that runs in the folder of its export)
PROGRAMS = {
    "trl": ("trl", None, TRL),
    "llamafactory": ("llamafactory", [["--no-deps", "llamafactory==0.9.5"], ["omegaconf"]], LLAMAFACTORY),
    "axolotl": ("axolotl", [["--no-deps", "axolotl==0.19.0"]], AXOLOTL),
    "mlx": ("mlx-lm", [["mlx[cpu]==0.32.4", "mlx-lm==0.32.2"]], MLX),
    "lm-eval": ("lm_eval", [["lm_eval==0.4.13"]], LM_EVAL),
    "openai": ("openai", [["openai"]], OPENAI),
}
HEAD = """
import json, sys
from importlib.metadata import version
TOKENIZER, PACKAGE = sys.argv[1:]
def found(how, rows, first):
    print("FOUND " + json.dumps({"version": version(PACKAGE), "how": how, "rows": rows, "first": first}))
"""


def build_parser() -> argparse.ArgumentParser:
    parser = bench.make_parser(__doc__, "exports.md")
    parser.add_argument("--venvs", type=Path, required=True, metavar="DIR", help="folder of the environments")
    parser.add_argument("--only", type=cli.comma_list, default=list(PROGRAMS), help="programs to check")
    return parser


def run(args: argparse.Namespace) -> int:
    import convert_csv_to_jsonl

    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder, links = Path(scratch) / "set", bench.make_links(Path(scratch) / "data", 200, seed=3)
        words = ["--csv", str(links), "--export-for", ",".join(PROGRAMS), "--out-dir", str(folder)]
        assert convert_csv_to_jsonl.main(words) == 0
        shard = (folder / "train-00000-of-00001.jsonl").read_text(encoding="utf-8").splitlines()
        first = [turn["content"] for turn in json.loads(shard[0])["messages"]]
        for name in args.only:
            read = ask(name, folder / "exports" / name, make_environment(name, args.venvs))
            whole = (read["rows"], read["first"]) == (len(shard), first)
            cli.say(f"{name} {read['version']}: {read['rows']} rows, {'the same' if whole else 'DIFFERENT'}")
            n_rows = f"{read['rows']} of {len(shard)}"
            rows.append((name, read["version"], read["how"], n_rows, "yes" if whole else "NO"))
    head = ("program", "version", "what was loaded", "training rows", "first conversation as in the set")
    bench.write_page(args.out, [
        "# What each program reads from its export", "",
        "`python benchmarks/check_exports.py`: 200 generated links, converted with `--export-for`.", "",
        *bench.table(head, rows, left=5),
    ])  # fmt: skip
    return 0 if all(row[-1] == "yes" for row in rows) else 1


def make_environment(name: str, folder: Path) -> str:
    """Return a Python that has the program: this one, or that of an environment created at the first call."""
    _, installs, _ = PROGRAMS[name]
    if installs is None:
        return sys.executable
    place = folder / name
    python = place / "bin" / "python"
    if not (place / "ready").exists():
        venv.create(place, clear=True)
        (own,) = (place / "lib").glob("python*/site-packages")
        (own / "zz_base.pth").write_text("\n".join(site.getsitepackages()) + "\n")  # after its own packages
        for words in installs:
            command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words]
            if subprocess.run(command, check=False).returncode:
                raise cli.UserError(f"{name}: pip install {' '.join(words)} failed")
        (place / "ready").touch()
    return str(python.absolute())


def ask(name: str, export: Path, python: str) -> dict:
    """Run the program on its export; return what it read."""
    package, _, code = PROGRAMS[name]
    env = {"HF_HUB_OFFLINE": "1", "DISABLE_VERSION_CHECK": "1", "TOKENIZERS_PARALLELISM": "false"}
    return bench.run_code(HEAD + code, str(load.make_tiny()), package, python=python, cwd=export, env=os.environ | env)


if __name__ == "__main__":
    raise SystemExit(bench.start(build_parser(), run))
