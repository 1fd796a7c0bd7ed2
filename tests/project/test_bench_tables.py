"""The benchmark of tables from packages: a table ends with a report, a one-line error, or a fault in a script."""

import json
import re
from pathlib import Path

import bench_tables
import pandas as pd
import pytest
import save_tables

SETTINGS = bench_tables.Settings("tiny", 150, 10, 1)


def test_a_table_ends_with_a_report_or_a_one_line_error(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).mkdir()
    same = pd.DataFrame({"x": range(60), "same": ["yes"] * 60})
    monkeypatch.setattr(bench_tables, "load", lambda case: same)
    refused = bench_tables.run_case(bench_tables.Case("own", "constant", "nothing"), tmp_path / "a", SETTINGS)
    assert (refused.stage, refused.is_fault) == ("validate_dataset", False)
    assert "nothing" in refused.said and "same" in refused.said
    monkeypatch.undo()
    report = bench_tables.run_case(bench_tables.Case("scikit-learn", "iris", "species"), tmp_path / "b", SETTINGS)
    assert (report.stage, report.kind, report.rows) == ("", "class", 150)
    assert "boosting_flat" in report.scores and "model" in report.scores
    page = bench_tables.write_page([refused, report], SETTINGS)
    assert "2 tables" in page and "1 ended with a report, 1 were refused with one line, 0 failed" in page
    assert "| iris | scikit-learn | 150 x 5 | `species` | class |" in page
    saved = report._asdict() | {"settings": SETTINGS._asdict()}
    (tmp_path / "b" / bench_tables.OUTCOME_FILE).write_text(json.dumps(saved))
    assert save_tables.main([str(tmp_path), "--out", str(tmp_path / "page.md"), "--remark", "Beside a test."]) == 0
    page = (tmp_path / "page.md").read_text()
    assert "Beside a test." in page
    assert re.search(r"\| iris \(scikit-learn\) \| `species`, accuracy \| 1[0-9]{2}, 10 \|", page)
    assert "- **iris**: boosting_flat wins (difference −" in page or "- **iris**: no difference between" in page
    assert "| **tuned** |" in page and "| most_frequent |" in page
    with pytest.raises(SystemExit, match="no table has ended with a report"):
        save_tables.main([str(tmp_path / "a")])


def test_a_traceback_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_tables, "load", lambda case: pd.DataFrame({"x": [1, 2], "y": [3, 4]}))
    monkeypatch.setattr(bench_tables.validate_dataset, "main", lambda words: 1 / 0)
    broken = bench_tables.run_case(bench_tables.Case("own", "broken", "y"), tmp_path, SETTINGS)
    assert broken.is_fault and "division by zero" in broken.said
    assert "1 failed" in bench_tables.write_page([broken], SETTINGS)


def test_every_table_is_named_once_and_there_are_at_least_forty():
    names = [(case.package, case.name) for case in bench_tables.CASES]
    assert len(names) == len(set(names)) >= 60
    assert len({case.package for case in bench_tables.CASES}) == 5
    with pytest.raises(FileNotFoundError):
        bench_tables.read_tweets(Path("no-such-archive.zip"))
