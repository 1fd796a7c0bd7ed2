"""Score what a model has to beat: random and frequent answers, the field's rules, boosted trees and the ceiling.

links.csv, or any CSV -> a folder a baseline (predictions.jsonl, metrics.json, row_scores.csv, …), summary.csv,
summary.md, manifest.json

    python scripts/run_baselines.py --csv runs/data/links.csv --out-dir runs/baselines

Every baseline learns from the train split and answers the same rows, which compare_results.py sets beside models'.
"""

from __future__ import annotations

import time
from pathlib import Path

from linklab import cli, files
from linklab.manifest import MANIFEST, check_out_dir, read_manifest, staged_folder, write_manifest

PRESETS = ("easy", "standard", "hard")


def build_parser():
    parser = cli.make_parser(__doc__)
    data = parser.add_argument_group("Input")
    data.add_argument("--csv", required=True, metavar="FILE", help="the rows, with their answers")
    cli.add_row_options(data)
    data.add_argument(
        "--prompt-template",
        metavar="FILE",
        help="the template models are asked with: baselines do not read it, comparisons check it",
    )
    data.add_argument("--split", default="test", choices=("train", "validation", "test"), help="rows to answer")
    data.add_argument(
        "--max-rows",
        type=cli.positive_int,
        metavar="N",
        help="answer at most N rows of the split, the same in every script; all when left out",
    )
    data.add_argument(
        "--max-train-rows",
        type=cli.positive_int,
        metavar="N",
        help="learn from at most N rows of the train split, the same in every script; all when left out",
    )
    rules = parser.add_argument_group("Baselines")
    rules.add_argument(
        "--only", type=cli.comma_list, metavar="NAME[,NAME]", help="run only these (unset: all that fit)"
    )
    rules.add_argument(
        "--group-by",
        type=cli.comma_list,
        metavar="COL[,COL]",
        help="columns frequency_by_group groups by (unset: domain or standard, and width, for links; "
        "none, so left out, for any other CSV)",
    )
    rules.add_argument(
        "--preset",
        choices=PRESETS,
        help="links: how noisy the reports are, for the ceiling "
        "(unset: what the manifest beside the CSV says, else standard)",
    )
    output = parser.add_argument_group("Output")
    output.add_argument("--out-dir", required=True, metavar="DIR", help="folder to make")
    output.add_argument("--force", action="store_true", help="replace a folder an earlier run made")
    again = parser.add_argument_group("Reproducibility")
    again.add_argument("--seed", type=int, default=0, metavar="N", help="seed of random answers, trees and the ceiling")
    again.add_argument("--split-seed", type=int, default=0, metavar="N", help="as given to convert_csv_to_jsonl.py")
    return parser


def read_preset(csv_path: Path) -> str:
    """Return the preset that the generator's manifest beside a CSV names; "standard" where there is none."""
    path = csv_path.parent / MANIFEST
    return read_manifest(path).get("extra", {}).get("preset", "standard") if path.exists() else "standard"


def check_columns(schema, names: list[str]) -> tuple[str, ...]:
    """Return the columns to group by; a UserError for one that a baseline may not see."""
    for name in names:
        if schema[name].role != "input":
            visible = ", ".join(column.name for column in schema.by_role("input"))
            raise cli.UserError(f"--group-by {name}: a {schema[name].role} column; the visible columns are: {visible}")
    return tuple(names)


def choose(found: dict, only: list[str] | None) -> dict:
    """Return the baselines asked for; a UserError lists the names."""
    for name in only or []:
        if name not in found:
            raise cli.UserError(f"--only {name}: no such baseline for this task; there are: {', '.join(found)}")
    return {name: baseline for name, baseline in found.items() if only is None or name in only}


def run(args) -> None:
    from linklab.baselines import registry
    from linklab.baselines.problem import Problem
    from linklab.metrics import comparison, metrics
    from linklab.reports import summary
    from linklab.tasks.examples import read_examples
    from linklab.tasks.task import make_task

    csv_path = files.require_file(args.csv)
    reads = [csv_path, args.prompt_template]
    check_out_dir(args.out_dir, script=__file__, force=args.force, reads=reads)
    task = make_task(csv_path, args.target_field, args.prompt_template, id_field=args.id_field, ask=args.ask)
    how = {"group_field": args.group_field, "seed": args.split_seed}
    test = read_examples(csv_path, task, args.split, args.max_rows, **how)
    train = read_examples(csv_path, task, "train", args.max_train_rows, **how)
    problem = Problem(
        train, test, task, args.seed, check_columns(task.schema, args.group_by or []),
        args.preset or read_preset(csv_path),
    )  # fmt: skip
    chosen = choose(registry.available(problem), args.only)

    with staged_folder(args.out_dir, script=__file__, force=args.force, reads=reads) as folder:
        for name, baseline in chosen.items():
            started = time.perf_counter()
            predictions, targets = registry.predict(problem, baseline)
            seconds = time.perf_counter() - started
            result = metrics.write_run(
                folder / name, test, predictions, task, model=name, role=baseline.role, targets=targets,
                description=baseline.description, seed=args.seed,
                cost={"seconds": round(seconds, 3), "rows_per_second": round(len(test) / max(seconds, 1e-6), 1)},
            )  # fmt: skip
            cli.say(f"{name}: {summary.describe(result)} in {seconds:.1f} s")
        runs = comparison.read_runs([folder])
        outputs = summary.write_summary(folder, runs, train_rows=len(train))
        folders = {path: len(test) if path.suffix in (".jsonl",) else None for name in chosen
                   for path in sorted((folder / name).iterdir())}  # fmt: skip
        write_manifest(
            folder, script=__file__, argv=args.argv, seed=args.seed,
            inputs={csv_path: None} | ({args.prompt_template: None} if args.prompt_template else {}),
            outputs=folders | dict.fromkeys(outputs),
            extra={"split": args.split, "rows": len(test), "train_rows": len(train), "preset": problem.preset},
        )  # fmt: skip
    cli.say(f"{args.out_dir}: {len(chosen)} baselines on {len(test):,} {args.split} rows, summary.md")


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
