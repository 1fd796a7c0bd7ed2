"""benchmarks/bench_gpu.py: all tasks run on the CPU with the tiny model, and continue after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import bench_gpu
import pytest

BENCH = Path(__file__).parents[2] / "benchmarks" / "bench_gpu.py"


def start(folder: Path, minutes: float, *more: str) -> subprocess.Popen:
    words = ["--device", "cpu", "--base-model", "tiny", "--minutes", str(minutes), "--out-dir", str(folder), *more]
    return subprocess.Popen([sys.executable, str(BENCH), *words], stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--only", "sped-lora-ours"], "--only sped-lora-ours: no such task; the tasks are: speed-lora-ours"),
        (["--wheels", "nowhere"], "--wheels nowhere: no wheels there"),
    ],
)
def test_a_wrong_option_is_one_line(tmp_path, words, expected, capsys):
    command = ["--device", "cpu", "--base-model", "tiny", "--minutes", "1", "--out-dir", str(tmp_path / "gpu")]
    assert bench_gpu.main([*command, *words]) == 2
    said = capsys.readouterr().err
    assert expected in said and "Traceback" not in said


@pytest.mark.slow
def test_all_tasks_run_on_the_cpu_and_continue_after_a_kill(tmp_path):
    folder = tmp_path / "gpu"
    first = start(folder, 20)
    while len(list(folder.glob("*.json"))) < 3 and first.poll() is None:
        time.sleep(0.5)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    kept = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    assert kept, "nothing was written before the kill"
    process = start(folder, 20)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert all((folder / name).read_bytes() == content for name, content in kept.items())
    results = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert len(results) == 22
    failed = {name: value["failed"] for name, value in results.items() if "failed" in value}
    assert not failed
    assert results["resume"]["result"]["finished"] and results["resume"]["result"]["continued"]
    for mode in ("lora", "full"):
        losses = [results[f"speed-{mode}-{engine}"]["result"]["losses"] for engine in ("ours", "trl", "plain")]
        assert max(abs(a - b) for other in losses[1:] for a, b in zip(losses[0], other, strict=True)) < 1e-4
