"""The generator: same bytes for any chunks and workers, a complete output or none, balanced as asked."""

import csv
import functools
import hashlib
import os
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import generate_synthetic_large
import pytest
import validate_dataset
from linklab.links import data_set, strata, upload
from linklab.links.links import LINK_SCHEMA
from linklab.manifest import read_manifest, write_manifest

SCRIPTS = Path(generate_synthetic_large.__file__).parent


@pytest.fixture(autouse=True)
def short_hardness(monkeypatch):
    monkeypatch.setattr(data_set, "HARDNESS_ROWS", 60)


def generate(folder, *words, code=0):
    assert generate_synthetic_large.main(["--out-dir", str(folder), *map(str, words)]) == code
    return folder


def rows_of(folder):
    with open(folder / "links.csv", encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def sha(folder):
    return hashlib.sha256((folder / "links.csv").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_set, "HARDNESS_ROWS", 60)
        return generate(tmp_path_factory.mktemp("plain") / "set", "--n-samples", 3100, "--seed", 7, "--workers", 1)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("chunk", [7, 1000, 3100])
def test_bytes_do_not_depend_on_chunks_or_workers(tmp_path, plain, chunk, workers):
    again = generate(tmp_path / "set", "--n-samples", 3100, "--seed", 7, "--chunk-size", chunk, "--workers", workers)
    for name in ("links.csv", "links.zip", "README.md"):
        assert (again / name).read_bytes() == (plain / name).read_bytes(), name
    chunks = read_manifest(again)["extra"]["chunks"]
    lines = (again / "links.csv").read_bytes().splitlines(keepends=True)[1:]
    assert [c["rows"] for c in chunks[:-1]] == [chunk] * (len(chunks) - 1) and sum(c["rows"] for c in chunks) == 3100
    for each in chunks:
        start = each["first_row"] - 1
        assert hashlib.sha256(b"".join(lines[start : start + each["rows"]])).hexdigest() == each["sha256"]


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_bytes_do_not_depend_on_the_hash_seed(tmp_path, plain, hash_seed):
    subprocess.run(
        [sys.executable, SCRIPTS / "generate_synthetic_large.py", "--out-dir", tmp_path / "set", "--n-samples", "400",
         "--seed", "7", "--workers", "2"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed}, check=True, capture_output=True,
    )  # fmt: skip
    assert (tmp_path / "set" / "links.csv").read_bytes() == b"".join(
        (plain / "links.csv").read_bytes().splitlines(keepends=True)[:401]
    )


def test_a_shorter_run_is_the_beginning_of_a_longer_one(tmp_path, plain):
    for n in (1, 1499, 1600):
        short = generate(tmp_path / str(n), "--n-samples", n, "--seed", 7)
        assert (plain / "links.csv").read_bytes().startswith((short / "links.csv").read_bytes())
        assert len(rows_of(short)) == n


def test_another_seed_gives_other_rows(tmp_path, plain):
    other = generate(tmp_path / "set", "--n-samples", 20, "--seed", 8)
    contents = [{tuple(list(row.values())[2:]) for row in rows_of(folder)} for folder in (plain, other)]
    assert not contents[0] & contents[1]


def test_rows_fit_the_schema(plain):
    rows = rows_of(plain)
    assert list(rows[0]) == LINK_SCHEMA.names
    assert [r["scenario_id"] for r in rows] == [f"L{i:08d}" for i in range(1, 3101)]
    assert validate_dataset.main([str(plain / "links.csv")]) == 0


def test_no_hidden_column_is_an_input(plain):
    inputs = {c.name for c in LINK_SCHEMA.by_role("input")}
    telling = ("true", "sinr", "throughput", "gap", "mcs", "acceptable", "availability", "lat_", "lon_", "interferer")
    assert not [name for name in inputs if any(word in name for word in telling)]
    assert {c.name for c in LINK_SCHEMA.by_role("target")} == {"recommended_channel_mhz", "expected_throughput_mbps"}
    target = LINK_SCHEMA["recommended_channel_mhz"]
    assert (target.choices_from, target.utility_from) == ("available_channels_mhz", "channel_throughput_mbps")


def test_the_folder_holds_csv_zip_card_and_a_manifest_that_names_them(plain):
    assert sorted(p.name for p in plain.iterdir()) == ["README.md", "links.csv", "links.zip", "manifest.json"]
    with zipfile.ZipFile(plain / "links.zip") as archive:
        assert archive.read("links.csv") == (plain / "links.csv").read_bytes()
        assert archive.infolist()[0].date_time == (1980, 1, 1, 0, 0, 0)
    manifest = read_manifest(plain)
    assert {e["path"]: e["sha256"] for e in manifest["outputs"]}["links.csv"] == sha(plain)
    assert manifest["seed"] == 7 and manifest["extra"]["preset"] == "standard"
    hardness = manifest["extra"]["hardness"]
    assert 0 < hardness["pickers"]["random"]["accuracy"] < hardness["bayes"]["ceiling"] <= 1
    assert f"{hardness['bayes']['ceiling']:.3f}" in (plain / "README.md").read_text(encoding="utf-8")


def test_the_preset_changes_the_measurements_and_not_the_true_values(tmp_path, plain):
    hard = rows_of(generate(tmp_path / "set", "--n-samples", 100, "--seed", 7, "--preset", "hard"))
    reported = {"rssi_dbm", "noise_dbm", "busy_pct"}
    for ours, theirs in zip(hard, rows_of(plain), strict=False):
        assert {k: v for k, v in ours.items() if k not in reported} == {
            k: v for k, v in theirs.items() if k not in reported
        }
    assert [r["noise_dbm"] for r in hard] != [r["noise_dbm"] for r in rows_of(plain)[:100]]


def test_domains_take_names_or_shares(tmp_path):
    only = rows_of(generate(tmp_path / "a", "--n-samples", 60, "--domains", "ETSI"))
    assert {r["regulatory_domain"] for r in only} == {"ETSI"}
    both = rows_of(generate(tmp_path / "b", "--n-samples", 300, "--domains", "FCC=1,ETSI_BFWA=9"))
    assert Counter(r["regulatory_domain"] for r in both).most_common()[0][0] == "ETSI_BFWA"


def test_the_default_mix_is_that_of_the_link_model():
    from linklab.radio.scenarios import DEFAULT_DOMAIN_MIX

    args = generate_synthetic_large.build_parser().parse_args(["--out-dir", "x"])
    assert dict(args.domains) == DEFAULT_DOMAIN_MIX == generate_synthetic_large.DOMAIN_SHARES


def test_min_gap_is_a_percentage(tmp_path):
    rows = rows_of(generate(tmp_path / "set", "--n-samples", 60, "--min-gap", 20))
    assert min(float(r["second_best_gap_pct"]) for r in rows) >= 20


def strata_counts(folder, *columns):
    return Counter(tuple(r[c] for c in columns) for r in rows_of(folder))


def test_oversample_copies_small_strata_and_copies_keep_their_id(tmp_path, plain):
    made = generate(tmp_path / "set", "--n-samples", 400, "--seed", 7,
                    "--stratify-by", "regulatory_domain", "--balance", "oversample")  # fmt: skip
    counts = strata_counts(made, "regulatory_domain")
    assert len(counts) == 3 and len(set(counts.values())) == 1
    content = {}
    for row in rows_of(made):
        assert content.setdefault(row["scenario_id"], row) == row
    originals = (plain / "links.csv").read_bytes().splitlines()[1:401]
    assert sorted(set((made / "links.csv").read_bytes().splitlines()[1:])) == sorted(originals)


def test_undersample_drops_rows_of_large_strata_and_invents_none(tmp_path, plain):
    made = generate(tmp_path / "set", "--n-samples", 400, "--seed", 7,
                    "--stratify-by", "regulatory_domain", "--balance", "undersample")  # fmt: skip
    counts = strata_counts(made, "regulatory_domain")
    assert set(counts.values()) == {Counter(r["regulatory_domain"] for r in rows_of(plain)[:400])["ETSI"]}
    assert set((made / "links.csv").read_bytes().splitlines()) <= set((plain / "links.csv").read_bytes().splitlines())


def test_generate_fills_every_stratum_with_fresh_rows(tmp_path, plain):
    made = generate(tmp_path / "set", "--n-samples", 400, "--seed", 7, "--workers", 2,
                    "--stratify-by", "regulatory_domain,radio_standard", "--balance", "generate")  # fmt: skip
    counts = strata_counts(made, "regulatory_domain", "radio_standard")
    assert sorted(counts.values()) == [66, 66, 67, 67, 67, 67]
    assert len({r["scenario_id"] for r in rows_of(made)}) == 400
    one = generate(tmp_path / "one", "--n-samples", 400, "--seed", 7, "--workers", 1, "--chunk-size", 7,
                   "--stratify-by", "regulatory_domain,radio_standard", "--balance", "generate")  # fmt: skip
    assert sha(one) == sha(made)
    shared = set((made / "links.csv").read_bytes().splitlines()) & set((plain / "links.csv").read_bytes().splitlines())
    assert len(shared) > 250  # a row has the same number and bytes in every set of its seed


def test_number_columns_are_cut_at_their_quartiles(tmp_path):
    made = generate(tmp_path / "set", "--n-samples", 400, "--seed", 7,
                    "--stratify-by", "link_distance_m", "--balance", "generate")  # fmt: skip
    rows = read_manifest(made)["extra"]["strata"]["rows"]
    assert rows == {f"link_distance_m=quarter {i} of 4": 100 for i in (1, 2, 3, 4)}


def test_a_stratum_too_rare_to_fill_stops_with_its_name(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(data_set, "MOST_ROWS_PER_WANTED", 2)
    generate(tmp_path / "set", "--n-samples", 300, "--seed", 7,
             "--stratify-by", "recommended_channel_mhz", "--balance", "generate", code=2)  # fmt: skip
    assert "recommended_channel_mhz=" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_quotas_count_across_blocks():
    import numpy as np

    column = LINK_SCHEMA["regulatory_domain"]
    pilot = {"regulatory_domain": np.array([0, 0, 0, 0, 0, 1, 1])}
    plan = strata.StratumQuotas("oversample", strata.Strata([column], pilot), 7)
    first = plan.copies({"regulatory_domain": pilot["regulatory_domain"][:4]})
    rest = plan.copies({"regulatory_domain": np.array([0, 1, 1])})
    assert [*first, *rest] == [1, 1, 1, 1, 1, 3, 2] and plan.done
    assert strata.Strata([column], pilot).codes({"regulatory_domain": np.array([2, 1])}).tolist() == [-1, 1]


@pytest.mark.parametrize(
    "words, said",
    [
        (["--domains", "FCC,MARS"], "MARS"),
        (["--domains", "FCC=0"], "above 0"),
        (["--min-gap", "100"], "from 0 to below 100"),
        (["--n-samples", "100000000"], "99999999"),
    ],
)
def test_bad_options_end_with_one_clear_line_and_code_2(tmp_path, capsys, words, said):
    generate(tmp_path / "set", *words, code=2)
    assert said in capsys.readouterr().err.strip().splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_failure_in_the_middle_leaves_the_old_set(tmp_path, monkeypatch, capsys):
    made = generate(tmp_path / "set", "--n-samples", 5)
    before = {p.name: p.read_bytes() for p in made.iterdir()}
    monkeypatch.setattr(data_set, "card_text", lambda *a: 1 / 0)
    assert generate_synthetic_large.main(["--out-dir", str(made), "--n-samples", "9", "--force"]) == 2
    assert "division by zero" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in made.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_a_full_disk_is_one_clear_line_and_leaves_the_old_set(tmp_path):
    resource = pytest.importorskip("resource")
    made = generate(tmp_path / "set", "--n-samples", 5)
    before = sha(made)
    done = subprocess.run(
        [sys.executable, SCRIPTS / "generate_synthetic_large.py", "--out-dir", made, "--n-samples", "2000", "--force"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"error: {made}: file too large; free some space or write elsewhere"
    assert sha(made) == before and [p.name for p in tmp_path.iterdir()] == ["set"]


def test_drive_copy_holds_the_same_bytes(tmp_path):
    made = generate(tmp_path / "set", "--n-samples", 5, "--upload-to-drive", tmp_path / "drive")
    for path in made.iterdir():
        assert (tmp_path / "drive" / path.name).read_bytes() == path.read_bytes()


def test_files_of_another_stage_in_the_folder_of_the_drive_copy_stay(tmp_path, capsys):
    drive = tmp_path / "drive"
    drive.mkdir()
    (drive / "model.bin").write_text("45 minutes")
    for held in ("'model.bin', which", "files written by finetune_gemma_from_csv.py"):
        generate(tmp_path / "set", "--n-samples", 5, "--upload-to-drive", drive, "--force", code=2)
        assert held in capsys.readouterr().err and not (tmp_path / "set").exists()
        assert (drive / "model.bin").read_text() == "45 minutes"
        write_manifest(drive, script="finetune_gemma_from_csv.py", argv=[], seed=1, inputs={},
                       outputs={drive / "model.bin": None})  # fmt: skip


def test_a_drive_copy_that_differs_is_an_error(tmp_path, monkeypatch, capsys):
    made = generate(tmp_path / "set", "--n-samples", 5)
    copy = upload.shutil.copyfile

    def damaged(source, target):
        copy(source, target)
        if Path(target).name == "links.csv":
            Path(target).write_bytes(b"half")

    monkeypatch.setattr(upload.shutil, "copyfile", damaged)
    with pytest.raises(upload.UserError, match="links.csv"):
        upload.copy_checked(made, tmp_path / "drive")


def test_hub_upload_asks_for_a_token_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    generate(tmp_path / "set", "--n-samples", 5, "--upload-to-hf", "me/links", code=2)
    assert "HF_TOKEN" in capsys.readouterr().err and not (tmp_path / "set").exists()


@pytest.mark.parametrize(("repo", "said"), [("me/links", "onnection refused"), ("no name", "no name")])
def test_a_hub_that_cannot_be_reached_or_a_bad_name_is_one_clear_line(tmp_path, monkeypatch, capsys, repo, said):
    import huggingface_hub

    nowhere = functools.partial(huggingface_hub.HfApi, endpoint="http://127.0.0.1:9")  # the real client, no network
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(huggingface_hub, "HfApi", nowhere)
    generate(tmp_path / "set", "--n-samples", 5, "--upload-to-hf", repo, code=2)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: --upload-to-hf {repo}: ") and said in line and "hf_secret" not in line
    assert len(rows_of(tmp_path / "set")) == 5


def test_workers_end_after_a_killed_parent(tmp_path):
    """Workers end within a second or two after their parent."""
    import signal
    import time

    child = subprocess.Popen(
        [sys.executable, SCRIPTS / "generate_synthetic_large.py", "--out-dir", tmp_path / "set", "--n-samples",
         "5000000", "--workers", "2"], stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        workers = []
        for _ in range(100):
            time.sleep(0.05)
            listing = Path(f"/proc/{child.pid}/task/{child.pid}/children")
            if not listing.exists():
                pytest.skip("needs /proc")
            workers = [int(p) for p in listing.read_text().split()]
            if len(workers) >= 2:
                break
        time.sleep(0.3)
        assert workers
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    for _ in range(60):
        time.sleep(0.05)
        if not any(_alive(pid) for pid in workers):
            break
    assert not [pid for pid in workers if _alive(pid)]
    assert not (tmp_path / "set").exists()


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
