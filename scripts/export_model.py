"""Write a trained Gemma 3 model as one GGUF file for llama.cpp, Ollama and LM Studio, and compare their answers.

training folder or model folder -> OUT_DIR/model-FORMAT.gguf, Modelfile, manifest.json

    python scripts/export_model.py --model runs/lora/model --out-dir runs/gguf

An adapter is merged into its base first. With --check, the file and the model answer the same prompts, and differing
answers are printed; exit code 1 when fewer than 95 % are equal. Then: ollama create mine -f runs/gguf/Modelfile
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

from linklab import cli, files
from linklab.cli import UserError, say
from linklab.manifest import check_out_dir, staged_folder, write_manifest


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which model is exported, how it is checked, and where the file goes."""

    model: Path
    base_model: str | None
    number_format: str
    check: Path | None
    check_rows: int
    out_dir: Path
    force: bool
    argv: tuple[str, ...]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = cli.make_parser(__doc__)
    model = parser.add_argument_group("Model")
    model.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="model folder, or the training folder that holds it"
    )
    model.add_argument("--base-model", metavar="NAME", help="the base model of an adapter, when it has moved")
    model.add_argument(
        "--format", dest="number_format", choices=("f32", "f16", "q8_0"), default="f16",
        help="numbers of the matrices: f16 540 MB, q8_0 half of that with rounding to 8 bits",
    )  # fmt: skip
    check = parser.add_argument_group("Check")
    check.add_argument(
        "--check", type=Path, metavar="DIR", help="converted folder: ask the file and the model its test prompts"
    )
    check.add_argument("--check-rows", type=cli.positive_int, default=50, metavar="N", help="prompts asked")
    output = parser.add_argument_group("Output")
    output.add_argument("--out-dir", type=Path, required=True, metavar="DIR", help="folder to write")
    output.add_argument("--force", action="store_true", help="replace what an earlier export wrote")
    return parser


def run(args: argparse.Namespace) -> None:
    """Load, merge, write, and compare with the model."""
    from linklab.models import gguf_check, gguf_export, load

    settings = cli.read_settings(Settings, args, model=_model_folder(args.model))
    reads = [settings.model, settings.check]
    check_out_dir(settings.out_dir, script=__file__, force=settings.force, reads=reads)
    prompts = read_prompts(settings.check, settings.check_rows) if settings.check else []
    if prompts:
        gguf_check.require_llama_cpp()
    with load.quiet_transformers():
        model, tokenizer = load.load_trained(settings.model, base_model=settings.base_model)
        name = f"model-{settings.number_format}.gguf"
        with staged_folder(settings.out_dir, script=__file__, force=settings.force, reads=reads) as folder:
            n_tensors = gguf_export.write_gguf(model, tokenizer, folder / name, settings.number_format,
                                               name=settings.model.resolve().parent.name)  # fmt: skip
            files.write_text(folder / "Modelfile", gguf_export.MODELFILE.format(name=name))
            outputs = {folder / name: None, folder / "Modelfile": None}
            write_manifest(
                folder, script=__file__, argv=settings.argv, seed=None, inputs={settings.model: None}, outputs=outputs,
            )  # fmt: skip
        say(f"wrote {settings.out_dir / name}: {n_tensors} tensors, and a Modelfile for `ollama create NAME -f`")
        if prompts:
            gguf_check.compare_answers(settings.out_dir / name, model, tokenizer, prompts)


def _model_folder(folder: Path) -> Path:
    """Return the folder that holds the weights: `folder` itself, or its model/."""
    if (folder / "model").is_dir():
        return folder / "model"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder finetune_gemma_from_csv.py wrote")
    return folder


def read_prompts(folder: Path, n_rows: int) -> list[str]:
    """Return the user's words of up to `n_rows` test conversations of a converted folder."""
    from linklab.tasks import jsonl

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a folder convert_csv_to_jsonl.py wrote")
    lines = itertools.chain.from_iterable(map(jsonl.read_lines, jsonl.shards(folder, "test")))
    prompts = [question.prompt for _, question in itertools.islice(lines, n_rows)]
    if not prompts:
        raise UserError(f"{folder}: no test conversations; give a folder convert_csv_to_jsonl.py wrote")
    return prompts


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
