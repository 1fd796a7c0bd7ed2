"""After a kill at any moment or a full disk, the data scripts leave the complete old set or the complete new one."""

import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import convert_csv_to_jsonl
import generate_synthetic_large
import pytest
import validate_dataset
from linklab.manifest import read_manifest, stale_reason

SCRIPTS = Path(convert_csv_to_jsonl.__file__).parent
resource = pytest.importorskip("resource")


STAGES = [pytest.param("generate", marks=pytest.mark.slow), "convert", "validate"]  # generating takes the longest


def tree(folder):
    """Return the files a run left: path -> hash, without working folders, whose names begin with a point."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


class Stage:
    """A script with two inputs and so two different outputs; it runs in this process, or elsewhere with `words`."""

    def __init__(self, name, folder, links):
        self.name, self.folder, self.links = name, folder, links
        self.out = folder / "out"
        folder.mkdir()
        if name == "validate":
            self.out.mkdir()

    def words(self, which):
        if self.name == "generate":
            return [
                "--n-samples",
                "1700",
                "--seed",
                str(which),
                "--workers",
                "2",
                "--out-dir",
                str(self.out),
                "--force",
            ]
        if self.name == "convert":
            return ["--csv", str(self.links[which]), "--out-dir", str(self.out), "--workers", "2", "--force"]
        report, violations = self.out / "report.json", self.out / "violations.csv"
        return [str(self.links[which]), "--report", str(report), "--violations", str(violations), "--force"]

    @property
    def script(self):
        modules = {"generate": generate_synthetic_large, "convert": convert_csv_to_jsonl, "validate": validate_dataset}
        return modules[self.name]

    def start(self, which, limit_bytes=None):
        limit = None if limit_bytes is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes,) * 2)
        return subprocess.Popen(
            [sys.executable, self.script.__file__, *self.words(which)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=limit, start_new_session=True,
        )  # fmt: skip

    def sound(self, found):
        """Assert that the output is that of a complete run, and return which input it came from."""
        if self.name == "validate":
            return self._sound_reports()
        manifest = read_manifest(self.out)
        named = {entry["path"]: entry["sha256"] for entry in manifest["outputs"]}
        assert {k.removeprefix("out/"): v for k, v in found.items() if k != "out/manifest.json"} == named
        assert manifest["argv"] in (self.words(1), self.words(2))
        return 1 if manifest["argv"] == self.words(1) else 2

    def _sound_reports(self):
        """The manifest has the hashes of report and violations, so a mixture of two runs would be stale."""
        report = json.loads((self.out / "report.json").read_text())
        which = 1 if report["file"] == self.links[1].name else 2
        manifest = self.out / "report.manifest.json"
        reason = stale_reason(manifest, script="validate_dataset.py", argv=self.words(which))
        assert reason in (None, "its check failed")  # the second file has violations
        assert (self.out / "violations.csv").read_text().count("\n") - 1 == report["violations"] == 2 * (which - 1)
        return which


@pytest.fixture(scope="module")
def links(small_links, tmp_path_factory):
    """Two inputs: a clean one, and one with two damaged rows."""
    folder = tmp_path_factory.mktemp("inputs")
    rows = (small_links / "links.csv").read_text().splitlines(keepends=True)
    (folder / "one.csv").write_text("".join(rows))
    # three blocks, so that the converter starts workers
    more = [row.replace("L0", f"L{n}", 1).replace(",S0", f",S{n}", 1) for n in range(1, 10) for row in rows[1:]]
    (folder / "two.csv").write_text("".join(rows + more).replace(",urban,", ",suburban,", 2))
    return {1: folder / "one.csv", 2: folder / "two.csv"}


def kill_often(stage, n_kills, seed):
    """Kill `n_kills` runs of a stage at random moments; returns how many left the old, the new, and left-overs."""
    chance, seen = random.Random(seed), {"old": 0, "new": 0, "left over": 0}
    process = stage.start(1)
    assert process.wait() in (0, 1), process.stderr.read()
    started = time.monotonic()
    process = stage.start(2)
    assert process.wait() in (0, 1)
    whole_s, current = time.monotonic() - started, 2
    for which in itertools.islice(itertools.cycle((1, 2)), n_kills):
        process = stage.start(which)
        # Half of the kills at any time, half near the end, where files are renamed.
        time.sleep(whole_s * (chance.uniform(0.05, 1.1) if chance.random() < 0.5 else chance.uniform(0.75, 1.15)))
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.wait()
        process.stderr.close()
        now = stage.sound(tree(stage.folder))
        seen["old" if now == current else "new"] += 1
        seen["left over"] += any(p.name.startswith(".") for p in stage.folder.rglob("*"))
        current = now
    process = stage.start(1)
    assert process.wait() in (0, 1), process.stderr.read()
    assert stage.sound(tree(stage.folder)) == 1
    assert not [path for path in stage.folder.rglob("*") if path.name.startswith(".")]
    return seen


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("n_kills", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_random_moments_the_old_set_or_the_new_one_is_there(tmp_path, links, name, n_kills):
    seen = kill_often(Stage(name, tmp_path / name, links), n_kills, seed=n_kills)
    print(f"{name}: {n_kills} kills left {seen}")
    assert n_kills < 50 or (seen["old"] > 5 and seen["left over"] > 3), "no kill hit a run at work"


@pytest.mark.parametrize("name", STAGES)
def test_a_full_disk_leaves_the_old_set_and_the_next_run_succeeds(tmp_path, links, name):
    stage = Stage(name, tmp_path / name, links)
    assert stage.start(1).wait() in (0, 1)
    before = tree(stage.folder)
    process = stage.start(2, limit_bytes=60 if name == "validate" else 200_000)
    said = process.stderr.read()
    assert process.wait() == 2 and "file too large" in said.splitlines()[-1], said
    assert tree(stage.folder) == before
    assert not [path for path in stage.folder.rglob("*") if path.name.startswith(".")]
    assert stage.start(2).wait() in (0, 1)
    assert stage.sound(tree(stage.folder)) == 2
