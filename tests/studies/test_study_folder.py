"""A study is identified by the bytes of its table and every option that changes rows or questions."""

import argparse
import shutil

from linklab import cli
from linklab.studies.folder import fingerprint_data
from linklab.tasks.source import Source


def source(path, *words):
    parser = argparse.ArgumentParser()
    cli.add_source_options(parser)
    return Source.from_args(parser.parse_args(["--csv", str(path), "--target-field", "kind", *words]))


def test_a_converted_table_is_identified_by_its_files(tmp_path):
    folder = tmp_path / "set"
    (folder / "train").mkdir(parents=True)
    (folder / "dataset_dict.json").write_text("{}")
    (folder / "train" / "data.arrow").write_bytes(b"rows")
    shutil.copytree(folder, tmp_path / "copy")
    first = fingerprint_data(source(folder))
    assert fingerprint_data(source(tmp_path / "copy")) == first
    (tmp_path / "copy" / "train" / "data.arrow").write_bytes(b"other")
    assert fingerprint_data(source(tmp_path / "copy")) != first
    (folder / "train" / "data.arrow").rename(folder / "train" / "renamed.arrow")
    assert fingerprint_data(source(folder)) != first


def test_options_that_change_rows_or_questions_start_another_study(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("kind,x\na,1\n")
    words = ([], ["--drop-columns", "x"], ["--missing", "?"], ["--answer-format", "json"], ["--ask", "row"],
             ["--split-seed", "1"], ["--system-prompt", "Think."])  # fmt: skip
    found = [fingerprint_data(source(path, *more)) for more in words]
    assert all(one not in found[:i] for i, one in enumerate(found))
    assert fingerprint_data(source(path)) == {k: v for k, v in found[0].items() if k != "words"} == found[0]
