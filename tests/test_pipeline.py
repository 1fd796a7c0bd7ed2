"""linklab/pipeline.py: a stage's process is logged, watched, waited for, and keeps its lock until it ends."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from linklab import pipeline
from linklab.locks import claim, is_free


def python(text):
    return [sys.executable, "-c", text]


def test_a_stages_output_goes_to_its_log_and_its_exit_code_is_returned(tmp_path):
    with open(tmp_path / "log", "w") as log:
        assert (
            pipeline.call(python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"), log=log) == 3
        )
    assert sorted((tmp_path / "log").read_text().split()) == ["err", "out"]


def test_a_watch_that_returns_true_stops_the_stage_once(tmp_path):
    ready = tmp_path / "ready"
    text = f"""
import pathlib, signal, sys, time
told = []
signal.signal(signal.SIGTERM, lambda *a: told.append(1))
pathlib.Path({str(ready)!r}).touch()
while not told: time.sleep(0.01)
time.sleep(0.3)  # finishing its work
sys.exit(100 + len(told))
"""
    assert pipeline.call(python(text), watch=ready.exists, every_s=0.02) == 101


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_watch_that_fails_leaves_no_stage_running():
    pids = []

    def watch():
        pids.extend(int(p) for p in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())
        raise ZeroDivisionError

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError):
        pipeline.call(python("import time; time.sleep(60)"), watch=watch, every_s=0.02)
    assert pids and not any(os.path.exists(f"/proc/{pid}") for pid in pids[-1:])
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stage_keeps_the_lock_when_the_process_that_started_it_is_killed(tmp_path):
    path, ready, go = tmp_path / "claim", tmp_path / "ready", tmp_path / "go"
    text = f"""
import os, pathlib, time
if os.fork(): os._exit(0)  # leaves a child process, like a killed worker with its training
pathlib.Path({str(ready)!r}).touch()
while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)
"""
    worker = os.fork()
    if not worker:
        with claim(path) as handle:
            pipeline.call(python(text), hold=[handle])
            time.sleep(60)
    while not ready.exists():
        time.sleep(0.01)
    with claim(path) as other:
        assert other is None
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    assert not is_free(path)  # the worker has ended, its child has not
    go.touch()
    deadline = time.monotonic() + 30
    while not is_free(path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert is_free(path)
