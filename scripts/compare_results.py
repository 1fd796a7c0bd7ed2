"""Compare models and baselines on the same rows, and write the report of an experiment.

reads run folders (metrics.json, row_scores.csv, predictions.jsonl) -> OUT_DIR/comparison.csv, comparison.md,
report.md, report.html, plots/, blend/, manifest.json

    python scripts/compare_results.py runs/demo/baselines runs/demo/tuned runs/demo/base --out-dir runs/demo/report
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from linklab import cli, manifest
from linklab.manifest import MANIFEST, check_out_dir, read_manifest, staged_folder, write_manifest

if TYPE_CHECKING:
    from linklab.metrics.comparison import ScoredRun

EXIT_NOT_BETTER = 1


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is compared, and where the report goes."""

    runs: tuple[str, ...]
    stage: tuple[str, ...]
    validation_runs: tuple[str, ...]
    reference: str | None
    candidate: str | None
    require_better_than: str | None
    allow_different_prompts: bool
    out_dir: Path
    title: str
    force: bool
    seed: int
    argv: tuple[str, ...]


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("Input")
    group.add_argument("runs", nargs="+", metavar="RUN", help="folder with metrics.json, or a folder of such folders")
    group.add_argument(
        "--stage",
        action="append",
        default=[],
        metavar="DIR",
        help="folder (or manifest) of an earlier stage, for the report's commands, data card and "
        "loss curve; once each, in the order they ran",
    )
    group.add_argument(
        "--validation-runs",
        nargs="+",
        default=[],
        metavar="DIR",
        help="runs of the candidate and the baselines on the validation split (--split validation, the same --name): "
        "they fit a blend of the candidate and the best baseline with probabilities, which shows whether the model "
        "adds anything to it",
    )
    group = parser.add_argument_group("Comparison")
    group.add_argument("--reference", metavar="NAME", help="run to compare with (default: the best baseline)")
    group.add_argument("--candidate", metavar="NAME", help="run the verdict is about (default: the first tuned model)")
    group.add_argument(
        "--require-better-than",
        metavar="NAME",
        help="exit 1 unless the candidate beats this run in the first metric of the table, with p "
        "below 0.05 in one paired test",
    )
    group.add_argument(
        "--allow-different-prompts",
        action="store_true",
        help="compare runs whose prompts differ, on the same rows and labels",
    )
    group = parser.add_argument_group("Output")
    group.add_argument("--out-dir", type=Path, required=True, help="folder to write")
    group.add_argument("--title", default="Which model, and is it better?", help="heading of the report")
    group.add_argument("--force", action="store_true", help="replace an earlier comparison in --out-dir")
    manifest.add_skip_finished_option(group)
    group = parser.add_argument_group("Reproducibility")
    group.add_argument(
        "--seed", type=cli.seed_number, default=0, help="seed of the bootstrap and of the sign-flip tests"
    )
    return parser


def read_stages(names: Sequence[str], runs: list, argv: Sequence[str]) -> tuple[list[dict], list[Path]]:
    """Return the manifests of all stages and runs and of this command, and the paths of those on disk."""
    paths = [Path(name) / MANIFEST if Path(name).is_dir() else Path(name) for name in names]
    for run in runs:  # a run's own manifest, or that of the folder of runs it belongs to
        paths += [path for path in (run.folder / MANIFEST, run.folder.parent / MANIFEST) if path.exists()
                  and any((path.parent / e["path"]).is_relative_to(run.folder)
                          for e in read_manifest(path)["outputs"])][:1]  # fmt: skip
    paths = list({path.resolve(): path for path in paths}.values())
    own = {"script": Path(__file__).name, "argv": list(argv), "outputs": []}
    return [*map(read_manifest, paths), own], paths


def read_verified(names: Sequence[str]) -> list[ScoredRun]:
    """Return the runs in these folders; raises a UserError for one whose files contradict each other."""
    from linklab.metrics import comparison, run_checks

    runs = comparison.read_runs(names)
    for found in runs:
        run_checks.verify(found)
    return runs


def choose_rivals(
    runs: list[ScoredRun], candidate_name: str | None, rival_name: str | None
) -> tuple[ScoredRun | None, ScoredRun | None]:
    """Return the run the verdict is about and the run it has to beat; each None if there is none."""
    from linklab.metrics import comparison

    candidate = comparison.find_run(runs, candidate_name) if candidate_name else None
    candidate = candidate or comparison.first_of_role(runs, "tuned")
    rival = comparison.find_run(runs, rival_name) if rival_name else None
    if rival and candidate is None:
        raise cli.UserError("--require-better-than needs a tuned model among the runs, or --candidate NAME")
    return candidate, rival


def run(args: argparse.Namespace) -> int | None:
    """Read, check, compare, write, and say who wins."""
    from linklab.metrics import comparison
    from linklab.metrics.blend import make_blend
    from linklab.reports import report, tables
    from linklab.reports.verdict import make_verdict

    settings = cli.read_settings(Settings, args)
    reads = [*settings.runs, *settings.validation_runs, *settings.stage]
    check_out_dir(settings.out_dir, script=__file__, force=settings.force, reads=reads)
    runs, validation_runs = read_verified(settings.runs), read_verified(settings.validation_runs)
    comparison.check_same_rows(runs, allow_different_prompts=settings.allow_different_prompts)
    primary = comparison.primary_metric(runs)
    candidate, rival = choose_rivals(runs, settings.candidate, settings.require_better_than)
    reference = comparison.choose_reference(runs, primary, settings.reference, candidate)
    gate = comparison.gate(candidate, rival, primary, seed=settings.seed) if candidate and rival else None
    stages, manifests = read_stages(settings.stage, [*runs, *validation_runs], settings.argv)
    logs = [path.parent / "trainer_log.csv" for path in manifests if (path.parent / "trainer_log.csv").exists()]
    inputs = {run.folder / name: None for run in [*runs, *validation_runs] for name in comparison.FILES}
    inputs |= dict.fromkeys(manifests + logs)
    with staged_folder(settings.out_dir, script=__file__, force=settings.force, reads=inputs) as folder:
        blend = make_blend(folder / "blend", runs, validation_runs, candidate, primary) if validation_runs else None
        runs += [blend.run] if blend else []
        differences = comparison.compare_to(runs, reference, seed=settings.seed)
        experiment = tables.Experiment(
            title=settings.title, runs=runs, primary=primary, reference=reference, differences=differences,
            candidate=candidate, blend=blend, stages=stages, trainer_log=logs[-1] if logs else None, seed=settings.seed,
        )  # fmt: skip
        verdict = str(make_verdict(experiment))
        lines = comparison.write_comparison(folder / "comparison.csv", runs, differences)
        written = report.write_report(folder, experiment)
        written += sorted((folder / "blend").iterdir()) if blend else []
        write_manifest(
            folder, script=__file__, argv=settings.argv, seed=settings.seed,
            inputs=inputs, outputs={folder / "comparison.csv": lines} | dict.fromkeys(written),
            extra={"verdict": verdict, "check_failed": bool(gate and not gate.passed)},
        )  # fmt: skip

    if gate and candidate and rival:
        outcome = "passed" if gate.passed else "FAILED"
        cli.say(f"gate {outcome}: {candidate.name} against {rival.name}, {tables.describe_difference(gate.difference)}")
    print(f"report: {settings.out_dir / 'report.html'}")
    print(verdict)
    return EXIT_NOT_BETTER if gate and not gate.passed else 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    return cli.main(build_parser(), manifest.skip_finished(run, __file__), argv)


if __name__ == "__main__":
    raise SystemExit(main())
