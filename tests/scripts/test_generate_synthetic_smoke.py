"""The smoke set is 50 rows of what the large generator writes."""

import os
import subprocess
import sys
from pathlib import Path

import generate_synthetic_large
import generate_synthetic_smoke
from linklab.manifest import read_manifest


def test_the_smoke_set_is_the_beginning_of_a_large_one(tmp_path, capsys):
    assert generate_synthetic_smoke.main(["--out-dir", str(tmp_path / "smoke")]) == 0
    assert "50 rows" in capsys.readouterr().err.splitlines()[-1]
    assert (
        generate_synthetic_large.main(["--out-dir", str(tmp_path / "large"), "--seed", "1", "--n-samples", "80"]) == 0
    )
    smoke = (tmp_path / "smoke" / "links.csv").read_bytes()
    assert smoke.count(b"\n") == 51
    assert (tmp_path / "large" / "links.csv").read_bytes().startswith(smoke)
    assert read_manifest(tmp_path / "smoke")["script"] == "generate_synthetic_smoke.py"


def test_an_existing_set_needs_force(tmp_path, capsys):
    words = ["--out-dir", str(tmp_path / "smoke")]
    assert generate_synthetic_smoke.main(words) == 0
    assert generate_synthetic_smoke.main(words) == 2
    assert "--force" in capsys.readouterr().err
    assert generate_synthetic_smoke.main([*words, "--force"]) == 0


def test_n_samples_0_is_refused(tmp_path):
    assert generate_synthetic_smoke.main(["--out-dir", str(tmp_path / "smoke"), "--n-samples", "0"]) == 2
    assert not (tmp_path / "smoke").exists()


def test_help_needs_no_heavy_package(tmp_path):
    for name in ("torch", "transformers", "pandas", "numpy", "datasets", "peft", "matplotlib"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')")
    done = subprocess.run(
        [sys.executable, Path(generate_synthetic_smoke.__file__), "--help"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "--seed" in done.stdout
