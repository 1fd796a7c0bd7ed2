"""Stand-in for the training script: the same words, files and manners, in a moment and without a model.

It counts to ten, keeps what it has counted as a checkpoint, and ends with the count it is at when SIGTERM comes. Its
loss follows from the settings. Every start, end and meeting with another one in its folder is a line of `$STUB_LEDGER`.
"""

import argparse
import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from linklab import files, manifest  # noqa: E402
from linklab.manifest import write_manifest  # noqa: E402

STEPS = 10
manifest.commit = lambda: None  # git takes longer than all the rest
os.fsync = lambda descriptor: None  # as in tests/conftest.py


def note(word, folder):
    with open(os.environ["STUB_LEDGER"], "a") as handle:
        handle.write(f"{word} {folder.parent.name}\n")


def main():
    parser = argparse.ArgumentParser()
    for name, default in (("--learning-rate", 1e-3), ("--epochs", 1.0), ("--lora-rank", 8), ("--max-rows", 100)):
        parser.add_argument(name, type=type(default), default=default)
    for name in ("csv", "target-field", "base-model", "mode", "seed", "validation-rows", "out-dir", "resume"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--force", action="store_true")
    args = parser.parse_args()
    folder = Path(args.out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        note("met", folder)
        return 9
    note("start", folder)
    if args.learning_rate >= 1:
        print("some progress\nerror: the loss is nan at step 1; lower --learning-rate", file=sys.stderr)
        return 2
    if args.lora_rank == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    stopping = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    kept = folder / "checkpoints" / "count.json"
    done = json.loads(kept.read_text())["done"] if kept.exists() else 0
    mark = {"settings": {"epochs": args.epochs, "max_steps": 0}}
    files.write_json(folder / "checkpoints" / "checkpoint-1" / "complete.json", mark, force=True)
    level = abs(args.learning_rate * 1000 - 1) + args.lora_rank / 100 + float(args.seed) / 1e4
    for step in range(done + 1, STEPS + 1):
        time.sleep(float(os.environ.get("STUB_STEP", "0.01")))
        log = ["step,epoch,train_loss,validation_loss,learning_rate,grad_norm"]
        log += [f"{k},{k / STEPS * args.epochs},,{level + 1 / k:.6g},," for k in range(1, step + 1)]
        files.write_text(folder / "trainer_log.csv", "\n".join(log) + "\n", force=True)
        files.write_json(kept, {"done": step}, force=True)
        if stopping:
            (folder / manifest.NEW).mkdir(exist_ok=True)  # as if it was writing its results
            note("stopped", folder)
            return 128 + stopping[0]
    files.write_text(folder / "model" / "weights", "", force=True)
    seconds = float(os.environ.get("STUB_SECONDS", "0"))
    files.write_json(
        folder / "metrics.json", {"best_validation_loss": level + 1 / STEPS, "seconds": seconds}, force=True
    )
    write_manifest(
        folder, script=__file__, argv=sys.argv[1:], seed=None, inputs={},
        outputs={folder / name: None for name in ("model", "metrics.json", "trainer_log.csv")},
    )  # fmt: skip
    note("finish", folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
