"""Kill every script that writes, at random moments; fill the disk; let two write at once. What is lost?

nothing -> a table on stdout: per script the kills, what they left, and whether the next run succeeded

    python benchmarks/campaign_kills.py --kills 20 --only convert,validate

Each attack is followed by the same checks: every manifest holds, no file beside the outputs has changed, and after all
kills the same command succeeds. Not part of the tests: 20 kills of every script take most of an hour on two idle cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from linklab import cli  # noqa: E402
from linklab.manifest import MANIFEST, find_changed, read_manifest  # noqa: E402

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
NOBODY = 65534
TINY = ["--base-model", "tiny"]


@dataclasses.dataclass(frozen=True)
class Command:
    """One script with its words; `{n}` changes from run to run, so that each run makes something else."""

    script: str
    words: str
    out: str  # what it writes, a folder or a file

    def argv(self, n: int) -> list[str]:
        """Return the command of run `n`."""
        return [sys.executable, str(ROOT / "scripts" / self.script), *self.words.format(n=n).split()]


COMMANDS = {
    "generate": Command("generate_synthetic_large.py", "--n-samples 400 --seed {n} --out-dir out --force", "out"),
    "smoke": Command("generate_synthetic_smoke.py", "--seed {n} --out-dir out --force", "out"),
    "validate": Command("validate_dataset.py", "in/links.csv --max-examples {n} --report out/r.json "
                        "--violations out/v.csv --force", "out"),
    "convert": Command("convert_csv_to_jsonl.py", "--csv in/links.csv --split-seed {n} --out-dir out --force", "out"),
    "baselines": Command("run_baselines.py", "--csv in/links.csv --max-rows 10 --seed {n} --only random,most_frequent "
                         "--out-dir out --force", "out"),
    "finetune": Command("finetune_gemma_from_csv.py", "--data in/jsonl --base-model tiny --max-steps 6 --save-steps 2 "
                        "--max-rows 32 --seed {n} --report-to none --out-dir out --force --resume auto", "out"),
    "evaluate": Command("evaluate_model.py", "--data in/jsonl --model in/run/model --max-rows {n} --out-dir out "
                        "--force", "out"),
    "compare": Command("compare_results.py", "in/baselines --seed {n} --out-dir out --force", "out"),
    "predict": Command("predict.py", "--csv in/links.csv --model in/run/model --max-rows {n} --out out/a.csv --force",
                       "out"),
    "survey": Command("import_survey.py", "--survey in/scan.json --signal-dbm -60 --current-channel-mhz 5180 "
                      "--noise-dbm -9{n} --regulatory-domain FCC --radio-standard ac --channel-bandwidth-mhz 40 "
                      "--link-distance-m 4980 --antenna-gain-dbi 23 --tx-power-dbm 25 --out out/s.csv --force", "out"),
    "curve": Command("run_learning_curve.py", "--data in/jsonl --base-model tiny --sizes 16 --seeds {n} --test-rows 8 "
                     "--no-baselines --retry-failed --out-dir out -- --max-steps 2", "out"),
    "sweep": Command("run_sweep.py", "--data in/jsonl --base-model tiny --max-rows 16 --validation-rows 8 --trials {n} "
                     "--space learning_rate=log:1e-4:1e-2 --retry-failed --out-dir out -- --max-steps 2", "out"),
    "hub": Command("push_to_hub.py", "in/jsonl --repo me/it{n} --license cc-by-4.0 --dry-run", "out"),
    "demo": Command("run_demo.py", "--base-model tiny --max-rows 24 --test-rows 8 --seed {n} --out-dir out --force",
                    "out"),
}  # fmt: skip


def prepare(place: Path) -> None:
    """Make what the scripts read, in `place`/in."""

    def call(script: str, *words: str) -> None:
        subprocess.run([sys.executable, str(ROOT / "scripts" / script), *words], cwd=place, check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip

    call("generate_synthetic_large.py", "--n-samples", "400", "--seed", "1", "--out-dir", "in")
    call("convert_csv_to_jsonl.py", "--csv", "in/links.csv", "--out-dir", "in/jsonl")
    call("run_baselines.py", "--csv", "in/links.csv", "--max-rows", "10", "--only", "random,most_frequent",
         "--out-dir", "in/baselines")  # fmt: skip
    call("finetune_gemma_from_csv.py", "--data", "in/jsonl", *TINY, "--max-steps", "1", "--max-rows", "32",
         "--report-to", "none", "--out-dir", "in/run")  # fmt: skip

    (place / "in" / "scan.json").write_text(
        '[{"channel": 36, "utilization": 12, "interference": -93}, {"channel": 40, "utilization": 4}]'
    )


def bytes_of(folder: Path) -> dict[str, str]:
    """Return the hash of each file below a folder."""
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def faults(place: Path, before: dict[str, str]) -> list[str]:
    """Return what is wrong after an attack: a manifest that does not hold, a foreign file that changed."""
    found = []
    for path in (place / "out").rglob(f"*{MANIFEST}"):
        if any(part.startswith(".") for part in path.relative_to(place).parts):
            continue  # a place of work that is not finished
        if fault := find_changed(read_manifest(path)["outputs"], path.parent):
            found.append(fault)
    now = bytes_of(place / "in") | {
        str(place / "notes.txt"): hashlib.sha256((place / "notes.txt").read_bytes()).hexdigest()
    }
    return found + [name for name in before if now.get(name) != before[name]]


def run(
    command: Command, place: Path, n: int, *, limit: int | None = None, user: int | None = None
) -> subprocess.Popen:  # fmt: skip
    """Start run `n`; `limit` is the most bytes a file may have, as on a full disk; `user` whom it runs as."""
    ready = None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command.argv(n), cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            start_new_session=True, preexec_fn=ready, env=environment, user=user)  # fmt: skip


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Wait for a run; returns its exit code and the last line it said."""
    _, said = process.communicate()
    return process.returncode, said.strip().splitlines()[-1] if said.strip() else ""


def attack(name: str, command: Command, place: Path, kills: int, chance: random.Random) -> dict[str, object]:
    """Attack one script in every way and return the figures."""
    (place / "notes.txt").write_text("a person's own file beside the outputs")
    (place / "out").mkdir(exist_ok=True)
    before = bytes_of(place / "in") | {
        str(place / "notes.txt"): hashlib.sha256((place / "notes.txt").read_bytes()).hexdigest()
    }
    started = time.monotonic()
    code, said = finish(run(command, place, 3))
    assert code in (0, 1), f"{name}: the first run failed: {said}"
    whole_s, wrong, hit = time.monotonic() - started, [], 0
    for k in range(kills):
        process = run(command, place, 4 + k % 2)
        time.sleep(whole_s * chance.uniform(0.05, 1.05))
        if process.poll() is None:
            hit += 1
            number = chance.choice(SIGNALS)
            os.killpg(process.pid, number) if number == signal.SIGKILL else process.send_signal(number)
        try:
            process.communicate(timeout=10 * whole_s + 30)
        except subprocess.TimeoutExpired:
            wrong.append("did not end after a signal")
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        wrong += faults(place, before)
    code, said = finish(run(command, place, 6))
    wrong += [f"the next run failed: {said}"] * (code not in (0, 1)) + faults(place, before)
    kept = bytes_of(place / "out")
    code, full = finish(run(command, place, 7, limit=300))
    wrong += ["full disk: exit code 0"] * (code == 0 and name != "hub") + faults(place, before)
    wrong += ["full disk: the old result is gone"] * any(
        p not in bytes_of(place / "out") for p in kept if "/." not in p
    )
    kept, refused = bytes_of(place / "out"), ""
    try:  # everything here is root's: whoever else runs it has folders that can only be read
        code, said = finish(run(command, place, 8, user=NOBODY))
        refused = f"exit code {code}"
        wrong += [f"read-only: {refused}: {said[:80]}"] * (code != 2 and name != "hub")
        wrong += ["read-only: something changed"] * (bytes_of(place / "out") != kept) + faults(place, before)
    except PermissionError:
        refused = "not tried: needs root, and a Python that everybody may run"
    pair = [run(command, place, 8), run(command, place, 8)]  # two writers at once: both may succeed, or one is refused
    codes = sorted(finish(process)[0] for process in pair)
    wrong += [f"two writers: exit codes {codes}"] * (codes[0] not in (0, 1)) + faults(place, before)
    return {
        "kills": kills,
        "hit": hit,
        "wrong": wrong,
        "full disk": full[:60],
        "read-only": refused,
        "two writers": codes,
        "seconds": whole_s,
    }


def attack_in_namespaces(command: Command, place: Path) -> str:
    """Let two writers run, each as process 1 of its own PID namespace, as in two containers on one disk."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-pf", "true"], capture_output=True).returncode:
        return "not allowed here"
    pair = [subprocess.Popen(["unshare", "-pf", "--mount-proc", *command.argv(9)], cwd=place, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL) for _ in range(2)]  # fmt: skip
    codes = sorted(process.wait() for process in pair)
    fault = next(
        (find_changed(read_manifest(path)["outputs"], path.parent) for path in (place / "out").rglob(MANIFEST)), None
    )
    return f"exit codes {codes}, {fault or 'every hash right'}"


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.make_parser(__doc__)
    parser.add_argument("--kills", type=cli.positive_int, default=20, metavar="N", help="kills of each script")
    parser.add_argument("--only", type=cli.comma_list, metavar="NAME[,NAME]", help=f"of {', '.join(COMMANDS)}")
    parser.add_argument("--seed", type=cli.seed_number, default=1, metavar="N", help="seed of moments and signals")
    return parser


def campaign(args: argparse.Namespace) -> int:
    """Attack the scripts one by one and print a line for each; exit code 1 when anything was lost."""
    chance, lost = random.Random(args.seed), 0
    print("| script | seconds | kills | hit it at work | two writers | two PID namespaces | read-only | faults |")
    print("|---|---:|---:|---:|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        os.chmod(scratch, 0o755)
        prepare(Path(scratch))
        for name in args.only or COMMANDS:
            place = Path(scratch) / f"place-{name}"
            place.mkdir()
            shutil.copytree(Path(scratch) / "in", place / "in")
            found = attack(name, COMMANDS[name], place, args.kills, chance)
            spaces = attack_in_namespaces(COMMANDS[name], place)
            lost += len(found["wrong"])
            told = "; ".join(map(str, found["wrong"][:3])) or "none"
            cells = [
                name,
                f"{found['seconds']:.1f}",
                found["kills"],
                found["hit"],
                found["two writers"],
                spaces,
                found["read-only"],
                told,
            ]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return 1 if lost else 0


def main(argv: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.main(build_parser(), campaign, argv)


if __name__ == "__main__":
    raise SystemExit(main())
