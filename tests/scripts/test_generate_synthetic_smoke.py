"""The smoke set is the first 50 rows of the large generator."""

import generate_synthetic_large
import generate_synthetic_smoke
from linklab.manifest import read_manifest


def test_the_smoke_set_is_the_beginning_of_a_large_one(tmp_path, capsys):
    assert generate_synthetic_smoke.main(["--out-dir", str(tmp_path / "smoke")]) == 0
    assert "50 rows" in capsys.readouterr().err.splitlines()[-1]
    words = ["--out-dir", str(tmp_path / "large"), "--seed", "1", "--n-samples", "80"]
    assert generate_synthetic_large.main(words) == 0
    smoke = (tmp_path / "smoke" / "links.csv").read_bytes()
    assert smoke.count(b"\n") == 51
    assert (tmp_path / "large" / "links.csv").read_bytes().startswith(smoke)
    assert read_manifest(tmp_path / "smoke")["script"] == "generate_synthetic_smoke.py"
