"""Attack every script that writes files: kill it at random moments, fill its disk, lock its folders, run it twice.

nothing -> a table on stdout: per script what was tried, what was lost, and whether a planted secret was found

    python benchmarks/campaign_kills.py --only convert,validate

Each attack is followed by the same checks: every manifest is valid, no other file has changed, no old result is
missing, and in the end the same command succeeds. A token and a password are in the environment of every run, and in
the arguments of some that fail; all outputs and messages are then searched for them. Uploads go to a local imitation
of the Hub. Not part of the tests: all scripts take over half an hour of one core; --only runs some of them.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import ctypes
import dataclasses
import hashlib
import importlib
import math
import os
import pkgutil
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bench
from attacked_scripts import COMMANDS, LIGHT, Command, damage_notebooks, prepare, prepare_place
from linklab import cli
from linklab.manifest import MANIFEST, find_changed, read_manifest

sys.path.insert(0, str(bench.ROOT / "tests"))

import hub_stand_in  # noqa: E402

HEAD = ("script", "seconds", "killed", "full disk", "read-only", "two PID namespaces", "searched for secrets", "faults")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TOKEN, PASSWORD = "hf_" + "plantedtoken42", "planted-pa55word"
URL = f"postgresql://me:{PASSWORD}@127.0.0.1:9/db"
DISK = "2g"  # size of the disk in memory on which one script is attacked
CLONE_NEWPID = 0x20000000  # linux/sched.h
ALONE = {name: "1" for name in
         ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY")}  # fmt: skip
HEAVY = ("torch", "transformers", "transformers.trainer", "transformers.models.gemma3.modeling_gemma3", "peft.auto",
         "safetensors.torch", "sklearn.ensemble", "scipy.stats", "matplotlib.pyplot", "optuna.importance", "gguf",
         "jinja2")  # fmt: skip
CAPABILITIES = (1, 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: root can write to read-only folders with them


class Forked:
    """A script in its own process, forked from this one, which has already done the slow imports.

    So most kills hit work, and few hit imports. It has the methods of subprocess.Popen that are used here.
    """

    def __init__(self, become: Callable[[], int]) -> None:
        """Run `become` in the new process, which ends with the exit code it returns."""
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                code = become()
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises subprocess.TimeoutExpired after `timeout` seconds."""
        until = time.monotonic() + (math.inf if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("stage", timeout or 0)
            time.sleep(0.02)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal while it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


class Run(Forked):
    """An attacked script, in its own process group.

    `locked` removes root's right to write despite file modes; `apart` makes it process 1 of a new PID namespace.
    """

    def __init__(self, argv: list[str], place: Path, log: Path, more: dict[str, str], *, locked: bool, apart: bool):
        super().__init__(lambda: _become(argv, place, log, more, locked=locked, apart=apart))
        with contextlib.suppress(ProcessLookupError):
            while os.getpgid(self.pid) != self.pid:  # until it leads its own group, which can be killed
                time.sleep(0.001)

    def end(self, seconds: float) -> bool:
        """Wait until it and all processes it started have ended; False if they had to be killed."""
        until = time.monotonic() + seconds
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(seconds)
        while time.monotonic() < until:
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.02)
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()
        return False


class ForkedStage(Forked):
    """Replaces subprocess.Popen in `pipeline.call`: stages are forked too, without importing again.

    Like Popen, it keeps the descriptors `pass_fds` open and runs `preexec_fn`, which ends it with its parent.
    """

    def __init__(
        self, command: list[str], *, stdin: int, stdout: Any, preexec_fn: Any, pass_fds: Any, stderr: Any = None
    ):
        out = os.dup((stdout or sys.stderr).fileno())

        def become() -> int:
            preexec_fn()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.dup2(out, 1)
            os.dup2(out, 2)
            for number in set(map(int, os.listdir("/proc/self/fd"))) - {0, 1, 2, *pass_fds}:
                with contextlib.suppress(OSError):
                    os.close(number)
            return run_script(command[1:])

        super().__init__(become)
        os.close(out)


def run_script(argv: list[str]) -> int:
    """Run a script in this process; returns its exit code."""
    sys.argv = argv
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def _become(argv: list[str], place: Path, log: Path, more: dict[str, str], *, locked: bool, apart: bool) -> int:
    """Turn this process into a run of a script; returns its exit code."""
    os.setsid()
    libc = ctypes.CDLL(None)
    if apart and libc.unshare(CLONE_NEWPID) == 0 and (child := os.fork()):
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 255
    for capability in CAPABILITIES if locked else ():
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP, linux/prctl.h: for its children too
    if locked and os.geteuid() == 0:
        drop_capabilities(libc)
    with open(log, "ab") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    os.chdir(place)
    os.environ.update(more)
    from linklab import pipeline

    pipeline.subprocess = types.SimpleNamespace(  # type: ignore[assignment]
        Popen=ForkedStage, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired
    )
    return run_script(argv)


def drop_capabilities(libc: Any) -> None:
    """Drop the capabilities with which root may write everywhere, in this process (capset(2), version 3)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    libc.capget(header, data)
    for word in (0, 1):  # effective and permitted, of the first 32
        for capability in CAPABILITIES:
            data[word] &= ~(1 << capability)
    if libc.capset(header, data):
        raise OSError("cannot give up capabilities")


def preload(everything: bool) -> None:
    """Import what the scripts import, so that a forked run starts with its work."""
    import linklab

    for name in ("numpy", "pandas", "pyarrow.csv", "scipy.special", "filelock", "huggingface_hub.errors"):
        importlib.import_module(name)
    for module in pkgutil.walk_packages(linklab.__path__, "linklab."):
        if everything and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in HEAVY if everything else ():
        importlib.import_module(name)


@dataclasses.dataclass
class Attack:
    """One script under attack: its command, its folder, and the faults found."""

    command: Command
    place: Path
    hub: Any
    log: Path
    before: dict[str, str] = dataclasses.field(default_factory=dict)
    wrong: list[str] = dataclasses.field(default_factory=list)
    finished: bool = False

    def start(self, argv: list[str], *, locked: bool = False, apart: bool = False) -> Run:
        """Start a run."""
        more = {"HF_TOKEN": TOKEN}
        if self.command.script != "run_sweep.py":  # it would open that database
            more["LINKLAB_STORAGE"] = URL
        return Run(argv, self.place, self.log, more, locked=locked, apart=apart)

    def run(self, argv: list[str], *, locked: bool = False) -> tuple[int, str]:
        """Run to the end; returns the exit code and the last line printed."""
        begins = self.log.stat().st_size if self.log.exists() else 0
        code = self.start(argv, locked=locked).wait()
        with open(self.log, "rb") as log:
            log.seek(begins)
            lines = log.read().decode(errors="replace").strip().splitlines()
        if any(line.startswith("Traceback") for line in lines):
            self.wrong.append("a traceback")
        return code, lines[-1] if lines else ""

    def check(self, what: str) -> None:
        """Record the faults found now."""
        self.wrong += [f"{what}: {fault}" for fault in self.faults()]

    def faults(self) -> Iterator[str]:
        """Yield the faults: an invalid manifest, another file that changed, a missing result."""
        for folder in self.command.own:
            for path in (self.place / folder).rglob(f"*{MANIFEST}"):
                if any(part.startswith(".") for part in path.relative_to(self.place).parts) or self.is_foreign(path):
                    continue  # an unfinished working folder
                if fault := find_changed(read_manifest(path)["outputs"], path.parent):
                    yield fault
        now = self.foreign_files()
        yield from (
            f"{name} changed, and is not the script's" for name in self.before if now.get(name) != self.before[name]
        )
        out = self.place / "out"
        if self.finished and self.command.stays and not (self.place / self.command.stays).exists():
            if not any(
                (out / f".linklab-{name}").exists() for name in ("ready", "placing")
            ):  # the next run completes it
                yield "the old result is gone"
        if self.command.check:
            yield from self.command.check(self.place, self.hub)

    def is_foreign(self, path: Path) -> bool:
        """Return whether a file does not belong to the script."""
        name = path.relative_to(self.place)
        return str(name) in self.command.foreign or name.parts[0] not in self.command.own

    def foreign_files(self) -> dict[str, str]:
        """Return the hash of each file that the script may not touch."""
        return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(self.place.rglob("*"))
                if p.is_file() and self.is_foreign(p)}  # fmt: skip


def kill_often(attack: Attack, n_kills: int, chance: random.Random) -> tuple[Counter[str], float]:
    """Kill runs at random moments and check after each; returns the count of each signal, and the seconds of a run."""
    started = time.monotonic()
    code, said = attack.run(attack.command.argv(3))
    whole_s, hits, n = time.monotonic() - started, Counter[str](), 4
    if code not in (0, 1):
        attack.wrong.append(f"the first run failed: {said}")
        return hits, whole_s
    attack.finished = True
    moments_s = whole_s / 4 if attack.command.resumes else whole_s  # continued runs end sooner
    tries = 0
    while sum(hits.values()) < n_kills and tries < 3 * n_kills:  # runs that ended before their kill do not count
        tries += 1
        damage_notebooks(attack.place)
        process = attack.start(attack.command.argv(n))
        time.sleep(moments_s * chance.uniform(0.05, 1.0))
        number = chance.choice(SIGNALS)
        if process.poll() is None:
            hits[number.name] += 1
            # Killing all processes is like a power cut; a user or a full memory kills only the first one.
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if chance.random() < 0.5 else os.kill)(process.pid, number)
        if not process.end(10 * whole_s + 60):
            attack.wrong.append(f"did not end after {number.name}")
        if process.returncode in (0, 1) or not attack.command.resumes:
            n = n + 1 if attack.command.resumes else 4 + tries % 2
        attack.check(number.name)
    damage_notebooks(attack.place)
    code, said = attack.run(attack.command.argv(n))
    if code not in (0, 1):
        attack.wrong.append(f"the run after the kills failed: {said}")
    attack.check("the run after the kills")
    return hits, whole_s


def fill_disk(attack: Attack) -> str:
    """Run on a disk with no space, and with half of the space the outputs need; returns the exit codes."""
    if not os.path.ismount(attack.place):
        return "no disk of its own"
    out = {p: p.read_bytes() for p in (attack.place / "out").rglob("*") if p.is_file() and "/." not in str(p)}
    size, codes = sum(map(len, out.values())), []
    for n, free in ((31, 0),) if attack.command.resumes else ((31, 0), (32, size // 2)):
        damage_notebooks(attack.place)
        with filled(attack.place, free):
            code, said = attack.run(attack.command.argv(n))
            attack.check("full disk")
        codes.append(code)
        if code not in (1, 2) and free == 0:
            attack.wrong.append(f"full disk: exit code {code}: {said[:80]}")
        attack.wrong += [f"full disk: {p} is gone" for p in out if not p.exists() and attack.command.stays]
    return f"exit codes {codes}"


@contextlib.contextmanager
def filled(place: Path, free: int) -> Iterator[None]:
    """Fill the disk of `place` except for `free` bytes while the block runs."""
    filler = place.parent / f"{place.name}-disk" / "filler"  # on the same disk, outside the folder that is checked
    with open(filler, "wb") as handle, contextlib.suppress(OSError):
        os.posix_fallocate(handle.fileno(), 0, max(1, shutil.disk_usage(place).free - free))
        handle.flush()
    with open(filler, "ab", buffering=0) as handle, contextlib.suppress(OSError):
        while free == 0:
            handle.write(b"\0" * 4096)
    try:
        yield
    finally:
        filler.unlink()


def lock_folders(attack: Attack) -> str:
    """Run with every folder read-only; returns the exit code."""
    damage_notebooks(attack.place)
    folders = [attack.place, *(p for p in attack.place.rglob("*") if p.is_dir() and not p.is_symlink())]
    kept = {p: p.read_bytes() for p in attack.place.rglob("*") if p.is_file()}
    for folder in folders:
        folder.chmod(0o555)
    code, said = attack.run(attack.command.argv(33), locked=True)
    for folder in folders:
        folder.chmod(0o755)
    if code != 2 or "error" not in said and "failed" not in said:
        attack.wrong.append(f"read-only: exit code {code}: {said[:80]}")
    if kept != {p: p.read_bytes() for p in attack.place.rglob("*") if p.is_file()}:
        attack.wrong.append("read-only: something changed")
    attack.check("read-only")
    return f"exit code {code}"


def write_twice(attack: Attack) -> str:
    """Let two writers run at once, each as process 1 of its own PID namespace, as in two containers on one disk."""
    damage_notebooks(attack.place)
    allowed = shutil.which("unshare") and not subprocess.run(["unshare", "-pf", "true"], capture_output=True).returncode
    pair = [attack.start(attack.command.argv(34), apart=bool(allowed)) for _ in range(2)]
    codes = sorted(process.wait() for process in pair)
    attack.check("two writers")
    if codes[0] not in (0, 1):
        attack.wrong.append(f"two writers: exit codes {codes}")
    return f"exit codes {codes}{'' if allowed else ', one namespace'}"


def fail_with_secrets(attack: Attack) -> None:
    """Run with secrets in every kind of argument: runs that fail and, if an option takes any text, a good one."""
    script, *words = attack.command.argv(34)
    url = f"https://me:{PASSWORD}@host"
    failing = [
        [f"--nonsense={url}/x", *words],
        ["--nonsense", f"token={TOKEN}", *words],
        ["--config", f"{url}/c.yaml", *words],
        [f"{url}/{word}" if word.startswith("in/") else word for word in words],
    ]
    if attack.command.script == "run_sweep.py":
        failing.append(["--storage", URL, *words])
    for argv in failing:
        code, said = attack.run([script, *argv]) if argv != words else (2, "")
        if code != 2:
            attack.wrong.append(f"a run that must fail: exit code {code}: {said[:80]}")
    if attack.command.text:
        code, said = attack.run([script, *words, *attack.command.text.format(text=f"{url}/{TOKEN}").split()])
        attack.wrong += [f"a run with secrets failed: {said}"] * (code not in (0, 1))


def find_secrets(attack: Attack) -> tuple[int, list[str]]:
    """Search all outputs and messages for the secrets, plain and in base 64; returns the number of files and faults."""
    wanted = [secret.encode() for secret in (TOKEN, PASSWORD)]
    wanted += [base64.b64encode(secret) for secret in wanted]
    paths = [attack.log, *(path for path in attack.place.rglob("*") if path.is_file())]
    return len(paths), [f"a secret is in {path}" for path in paths if any(w in path.read_bytes() for w in wanted)]


def attack_script(name: str, place: Path, hub: Any, kills: int, seed: int) -> tuple[list[str], list[str]]:
    """Attack one script in every way; returns the cells of its row and the faults."""
    command = COMMANDS[name]
    prepare_place(place, command)
    attack = Attack(command, place, hub, place.parent / f"{place.name}.log")
    attack.before = attack.foreign_files()
    hits, whole_s = kill_often(attack, kills, random.Random(f"{seed} {name}"))
    writes = command.script != "push_to_hub.py"  # it writes no local files
    full = fill_disk(attack) if writes else "–"
    locked = lock_folders(attack) if writes else "–"
    twice = write_twice(attack)
    fail_with_secrets(attack)
    damage_notebooks(place)
    code, said = attack.run(command.argv(34))
    attack.wrong += [f"the last run failed: {said}"] * (code not in (0, 1))
    attack.check("the last run")
    attack.wrong += [f"left over: {path}" for pattern in ("*.tmp", ".linklab-*") for path in place.rglob(pattern)]
    n_searched, secrets = find_secrets(attack)
    kinds = ", ".join(f"{n} {kind.removeprefix('SIG')}" for kind, n in sorted(hits.items()))
    cells = [name, f"{whole_s:.1f}", f"{sum(hits.values())} ({kinds})", full, locked, twice, f"{n_searched:,}"]
    return cells, [*attack.wrong, *secrets]


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = bench.make_parser(__doc__)
    parser.add_argument("--kills", type=cli.positive_int, default=20, metavar="N", help="kills of each script")
    parser.add_argument("--only", metavar="NAME[;NAME]", help=f"of {'; '.join(COMMANDS)} (default: all)")
    parser.add_argument("--seed", type=cli.seed_number, default=1, metavar="N", help="seed of moments and signals")
    parser.add_argument("--inputs", metavar="DIR", help="keep the inputs of the scripts there, for the next part")
    parser.add_argument("--keep", metavar="DIR", help="copy the output of each script there")
    return parser


def campaign(args: argparse.Namespace) -> int:
    """Attack the scripts one by one and print a line for each; exit code 1 if a fault was found."""
    names = [name.strip() for name in args.only.split(";")] if args.only else list(COMMANDS)
    if unknown := [name for name in names if name not in COMMANDS]:
        raise cli.UserError(f"--only {unknown[0]}: no such script; the names are: {'; '.join(COMMANDS)}")
    lost = 0
    print(*bench.table(HEAD, [], left=len(HEAD)), sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as folder, hub_stand_in.serve() as hub:
        os.environ["HF_ENDPOINT"] = hub.url  # set before the Hub's client is imported, which reads it
        preload(any(COMMANDS[name].script not in LIGHT for name in names))
        scratch = Path(folder)
        inputs = Path(args.inputs or scratch).resolve()
        prepare(inputs, names)
        for number, name in enumerate(names):
            with disk(scratch / f"place-{number}") as place:
                shutil.copytree(inputs / "in", place / "in")
                cells, wrong = attack_script(name, place, hub, args.kills, args.seed)
                log = place.parent / f"{place.name}.log"
                if args.keep:
                    Path(args.keep).mkdir(parents=True, exist_ok=True)
                    shutil.copy(log, Path(args.keep) / f"{name.replace(', ', '-')}.log")
            lost += len(wrong)
            print(f"| {' | '.join([*cells, '; '.join(wrong[:4]) or 'none'])} |", flush=True)
            hub.repos.clear()
    return 1 if lost else 0


@contextlib.contextmanager
def disk(place: Path) -> Iterator[Path]:
    """Yield a folder on its own small disk, if the machine allows it."""
    whole = place.parent / f"{place.name}-disk"
    whole.mkdir()
    place.mkdir()
    mounted = not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", whole], capture_output=True
    ).returncode
    try:
        if mounted:
            (whole / "place").mkdir()
            subprocess.run(["mount", "--bind", whole / "place", place], check=True)
        yield place
    finally:
        for path in (place, whole) if mounted else ():
            subprocess.run(["umount", path], check=True)


if __name__ == "__main__":
    if not ALONE.items() <= os.environ.items():  # a fork with threads would hang
        os.environ.update(ALONE)
        apart = not subprocess.run("unshare -m true", shell=True, capture_output=True).returncode
        command = [*(["unshare", "-m"] if apart else []), sys.executable, *sys.argv]
        os.execvp(command[0], command)
    raise SystemExit(bench.start(build_parser(), campaign))
