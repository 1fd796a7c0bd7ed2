"""Reports: self-contained, equal bytes for equal input, correct statements, and plots of unusual rows."""

import math
import re

import numpy as np
import pytest
from linklab import files
from linklab.cli import UserError
from linklab.metrics import comparison
from linklab.metrics.row_scores import INVALID
from linklab.reports import plots, report, tables
from linklab.reports.verdict import make_verdict
from metrics.test_comparison import make_examples, write_run

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def rendered_once():
    """Plots are rendered here, not replaced (see tests/conftest.py)."""


def make_experiment(folder, candidate="tuned", reference="trees", **more):
    runs = comparison.read_runs([folder])
    reference = comparison.find_run(runs, reference)
    return tables.Experiment(
        title="Trees & <models>", runs=runs, primary="channel/accuracy", reference=reference,
        differences=comparison.compare_to(runs, reference, resamples=100),
        candidate=comparison.find_run(runs, candidate) if candidate else None, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, examples = tmp_path_factory.mktemp("runs"), make_examples()
    examples[0].prompt = "<b>5180</b> | -61\n5200"
    write_run(folder / "tuned", examples, range(48), "tuned", off=5)
    write_run(folder / "base", examples, range(20, 24), "base", off=200)
    write_run(folder / "trees", examples, range(10, 40), off=20)
    write_run(folder / "rule", examples, range(12), targets=["channel"])
    write_run(folder / "ceiling", examples, range(58), "ceiling", off=0)
    return folder


def answer_to(question, experiment):
    return dict(make_verdict(experiment).answers)[question]


def test_the_verdict_names_every_role_its_interval_and_n(folder):
    scores = make_verdict(make_experiment(folder)).scores
    assert scores.startswith("channel accuracy on n = 60 unseen rows (95 % intervals): ")
    for part in (
        "tuned model 80.0 % [", "base model 6.7 % [", "best baseline trees 50.0 % [", "ceiling of these rows 96.7 % ["
    ):  # fmt: skip
        assert part in scores


def test_the_verdict_answers_whether_training_helped_and_whether_the_model_is_better(folder):
    experiment = make_experiment(folder)
    helped = answer_to("Did training help?", experiment)
    assert re.fullmatch(
        r"Yes: better than the base model by 73\.3 points \(difference \[\+.*\], p < 0\.001\)\.", helped
    )
    better = answer_to("Is it better than what it has to beat?", experiment)
    assert better.startswith("Yes: better than trees by 30.0 points (difference [+")
    assert answer_to("What next?", experiment).startswith("Use the tuned model; ")


def test_the_verdict_compares_with_the_best_simple_rule_and_with_the_best_rival(tmp_path):
    examples = make_examples()
    write_run(tmp_path / "tuned", examples, range(40), "tuned")
    write_run(tmp_path / "rule", examples, range(10))
    write_run(tmp_path / "boosting_flat", examples, range(58))
    experiment = make_experiment(tmp_path, reference="boosting_flat")
    better = answer_to("Is it better than what it has to beat?", experiment)
    assert re.match(r"In part: better than rule by 50\.0 points .*; worse than boosting_flat by 30\.0 points", better)
    assert "best simple rule rule 16.7 %" in make_verdict(experiment).scores
    assert answer_to("Did training help?", experiment).startswith("Not known: score the base model too")
    assert answer_to("What next?", experiment).startswith("Use boosting_flat for now; try more rows")


@pytest.mark.parametrize(("held", "free", "rank_by", "said"), [
    (20, 59, "summed", "ranking by summed probability favours short labels; score again with --rank-by written."),
    (20, 59, "written", "it writes what it does not rank first"),
    (59, 20, "written", "a program that lets it write freely gets the lower figure"),
    (40, 44, "written", None),  # the intervals overlap
])  # fmt: skip
def test_the_verdict_warns_if_restricted_and_free_answers_differ_by_more_than_chance(
    tmp_path, held, free, rank_by, said
):
    examples = make_examples()
    asked = {"model": "runs/a/model", "free": False, "rank_by": rank_by}
    write_run(tmp_path / "tuned", examples, range(held), "tuned", asked=asked)
    write_run(tmp_path / "tuned_free", examples, range(free), "tuned", asked=asked | {"free": True, "rank_by": None})
    other = asked | {"model": "runs/b/model", "free": True, "rank_by": None}  # scores of another model do not count
    write_run(tmp_path / "other_free", examples, range(1), "tuned", asked=other)
    write_run(tmp_path / "trees", examples, range(20))
    warnings = [text for text in make_verdict(make_experiment(tmp_path)).warnings if "legal answers" in text]
    assert len(warnings) == (said is not None)
    if said:
        share = f"channel accuracy of tuned is {100 * held / 60:.1f} % ["
        assert share in warnings[0] and "(tuned_free)" in warnings[0] and said in warnings[0]


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([1.0, 0.9, 0.8, 0.7, 0.6, 0.5], "the validation loss was still falling when training ended"),
        ([1.0, 0.6, 0.5, 0.5, 0.5, 0.5], "the validation loss had stopped falling: more passes will not help"),
        ([], "try more rows (run_learning_curve.py says how many), then more passes"),
    ],
)
def test_what_next_follows_the_validation_loss(tmp_path, losses, said):
    examples = make_examples()
    for name, right, role in (("tuned", 30, "tuned"), ("base", 2, "base"), ("boosting_flat", 58, "baseline")):
        write_run(tmp_path / "runs" / name, examples, range(right), role)
    log = tmp_path / "trainer_log.csv"
    log.write_text("step,train_loss,validation_loss\n" + "".join(f"{i},,{x}\n" for i, x in enumerate(losses, start=1)))
    experiment = make_experiment(tmp_path / "runs", reference="boosting_flat", trainer_log=log)
    assert said in answer_to("What next?", experiment)


def test_a_model_that_answers_the_same_for_all_rows_is_named(tmp_path):
    examples = make_examples()
    for example in examples:
        example.target["channel"] = "36" if int(example.id[1:]) % 3 else "40"
    write_run(tmp_path / "tuned", examples, range(60), "tuned")  # "36" for every row
    write_run(tmp_path / "trees", examples, range(10, 40))
    experiment = make_experiment(tmp_path)
    (warning,) = make_verdict(experiment).warnings
    said = "Warning: tuned answers channel = '36' on 60 of 60 rows, of which 40 have that value"
    assert warning == f"{said}: it does not look at the row."
    assert "the model ignores its input" in answer_to("What next?", experiment)


def test_a_score_above_the_ceiling_is_explained(tmp_path):
    examples = make_examples()
    write_run(tmp_path / "formula", examples, range(58), "formula")
    write_run(tmp_path / "ceiling", examples, range(1, 58), "ceiling")
    write_run(tmp_path / "trees", examples, range(10, 40))
    answer = answer_to("Why is formula above the ceiling?", make_experiment(tmp_path, candidate=None))
    assert "on these 60 rows formula scored 1.7 points more (p = 1.000): the difference is within chance" in answer


def test_the_verdict_does_not_call_a_chance_difference_real(folder):
    better = answer_to("Is it better than what it has to beat?", make_experiment(folder, candidate="rule"))
    assert better.startswith("No: worse than trees by")
    assert not make_verdict(make_experiment(folder, candidate=None)).answers


def test_no_difference_shown_says_what_n_could_show(tmp_path):
    examples = make_examples()
    write_run(tmp_path / "tuned", examples, range(31), "tuned")
    write_run(tmp_path / "trees", examples, range(2, 30))
    told = r"no difference from trees shown \(difference .* points \[.*\]; p [<>= ]*[\d.]+; 60 rows can only show \d+"
    assert re.search(told, answer_to("Is it better than what it has to beat?", make_experiment(tmp_path)))


def test_an_interval_without_zero_beside_a_corrected_p_is_explained(folder):
    experiment = make_experiment(folder)
    alone = next(r for r in experiment.differences if (r.run, r.metric) == ("tuned", "channel/accuracy"))
    alone.p, alone.p_holm = 0.031, 0.653
    line = next(line for line in tables.build_differences(experiment) if line["run"] == "tuned")
    assert line["verdict"] == "not shown: p 0.031 alone, 0.653 for all tests"


def test_the_same_experiment_gives_the_same_bytes_and_one_file_holds_all(folder, tmp_path):
    (tmp_path / "trainer_log.csv").write_text("step,train_loss,validation_loss\n1,2.5,\n2,1.5,1.6\n")
    stages = [
        {"script": "generate.py", "argv": ["--seed", "1", "--note", "a b"], "seed": 1, "outputs": [{"rows": 4000}],
         "extra": {"preset": "hard", "hardness": {"rows": 4000, "best": {"accuracy": 0.5, "regret": 0.25}}}}
    ]  # fmt: skip
    for out in ("a", "b"):
        experiment = make_experiment(folder, stages=stages, trainer_log=tmp_path / "trainer_log.csv")
        written = report.write_report(tmp_path / out, experiment)
    assert {p.name for p in written} >= {"report.html", "report.md", "comparison.md", "ladder.png", "loss.png",
                                         "confusion_channel.png", "predicted_rate.png"}  # fmt: skip
    for path in written:
        assert path.read_bytes() == (tmp_path / "a" / path.relative_to(tmp_path / "b")).read_bytes(), path
    html = (tmp_path / "a" / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', html) and "http" not in html and "<script" not in html
    assert html.count("data:image/png;base64,") == len([p for p in written if p.suffix == ".png"])
    assert "Trees &amp; &lt;models&gt;" in html and "&lt;b&gt;5180&lt;/b&gt;" in html and "<b>5180" not in html
    markdown = (tmp_path / "a" / "report.md").read_text()
    for text in (html, markdown):
        assert "python scripts/generate.py --seed 1 --note" in text
        assert "accuracy 0.5, regret 0.25" in text
        assert "[" in text and "sign flip" in text and "McNemar" in text
        assert not re.search(r"\b(nan|None|inf)\b", text)
    assert "<b>5180</b> | -61\n5200" in markdown


def test_the_table_has_a_line_per_run_best_first_and_a_dash_for_no_prediction(folder):
    experiment = make_experiment(folder)
    table = tables.build_table(experiment.runs, experiment.primary)
    assert [line["name"] for line in table["lines"]] == ["ceiling", "tuned", "trees", "rule", "base"]
    labels = [column["label"] for column in table["columns"]]
    assert labels == ["accuracy", "mean regret", "MAE", "within 10 %", "invalid"]
    rule = table["lines"][3]["cells"]
    assert rule[0]["value"] == "20.0 %" and rule[2]["value"] == "–"


def test_the_cost_of_a_run_is_shown_without_a_price(folder, tmp_path):
    experiment = make_experiment(folder)
    assert tables.build_costs(experiment) == []  # nothing was measured: no table of dashes
    cost = {"seconds": 20.0, "rows_per_second": 100.0, "parameters": 268_098_176, "peak_memory_mb": 1234.5}
    comparison.find_run(experiment.runs, "tuned").metrics["cost"] = cost
    line = next(line for line in tables.build_costs(experiment) if line["run"] == "tuned")
    assert line == {
        "run": "tuned", "seconds": "20", "rows_per_second": "100", "hours_per_million": "2.78",
        "parameters": "268,098,176", "peak_memory_mb": "1,234",
    }  # fmt: skip
    report.write_report(tmp_path, experiment)
    for name in ("report.html", "report.md", "comparison.md"):
        text = (tmp_path / name).read_text()
        for part in ("hours per million rows", "268,098,176", "1,234", "Dollars per million rows"):
            assert part in text, (name, part)


def test_a_markdown_table_has_as_many_cells_in_every_line(folder, tmp_path):
    report.write_report(tmp_path, make_experiment(folder))
    for name in ("report.md", "comparison.md"):
        blocks = re.findall(r"(?:^\|.*\|\n)+", (tmp_path / name).read_text(), flags=re.MULTILINE)
        assert len(blocks) >= 2
        for block in blocks:
            lines = block.splitlines()
            assert len(lines) > 2, block
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1, block


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [("accuracy", 0.7646, "76.5 %"), ("mae", 40.123, "40.1"), ("mae", 0.00052, "0.0005"), ("mae", 1234.5, "1234"),
     ("top3_accuracy", 1.0, "100.0 %"), ("r2", -0.0088, "−0.009"), ("mae", 0.0, "0"), ("mae", math.nan, "–"),
     ("mae", None, "–"), ("regret", -0.0003, "−0.03 %"), ("regret", -1e-6, "0.0 %"), ("accuracy", 0.0, "0.0 %")],
)  # fmt: skip
def test_values_are_written_with_a_sensible_number_of_digits(metric, value, text):
    assert tables.format_value(metric, value) == text


@pytest.mark.parametrize(("p", "text"), [(0.0004, "< 0.001"), (0.0312, "0.031"), (1.0, "1.000"), (None, "–")])
def test_p_values_are_never_written_as_zero(p, text):
    assert tables.format_p(p) == text


def test_a_long_title_stays_inside_a_small_picture():
    """The right edge stays white: the title does not run over it."""
    import io

    from PIL import Image

    title = "boosting_candidates: expected_throughput_mbps"
    for png in (
        plots.predicted_against_true(np.array([5.0, 9.0]), np.array([6.0, 9.0]), "Mbit/s", title),
        plots.reliability(np.array([0.5, 0.9]), np.array([0, 1]), title),
    ):
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
        assert (pixels[:60, -2:] == 255).all()


@pytest.mark.filterwarnings("error")
def test_plots_accept_unusual_rows_and_repeat_their_bytes():
    no_interval = {"name": "a", "role": "tuned", "value": 0.5, "low": None, "high": None}
    one_class = plots.confusion_matrix(["36"] * 5, ["36", "", "36", "40", "36"], "t")
    many = [str(i) for i in range(60)]
    for png in (
        one_class,
        plots.confusion_matrix(many, many[::-1], "t"),
        plots.confusion_matrix(["a"] * 3, ["a"] * 3, "t"),
        plots.reliability(np.array([0.0, 1.0, 0.999]), np.array([0, 1, 1]), "t"),
        plots.predicted_against_true(np.array([5.0, 5.0]), np.array([math.nan, math.nan]), "", "t"),
        plots.predicted_against_true(np.array([-3.0, 0.0]), np.array([-2.0, 1.0]), "dB", "t"),
        plots.loss_curve({"train_loss": [(1, 2.0)], "validation_loss": []}, "t"),
        plots.intervals_chart([no_interval], "x", True, "t"),
    ):
        assert png.startswith(PNG)
    assert one_class == plots.confusion_matrix(["36"] * 5, ["36", INVALID, "36", "40", "36"], "t")
    assert b"matplotlib" not in one_class.lower()


@pytest.mark.parametrize(
    ("text", "said"),
    [("epoch,loss\n1,2\n", "no column 'step'"), ("step,train_loss\n1,two\n", ":2: could not convert"), ("", "empty")],
)
def test_a_broken_trainer_log_is_one_clear_error(tmp_path, text, said):
    (tmp_path / "trainer_log.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        plots.read_trainer_log(tmp_path / "trainer_log.csv")


@pytest.mark.parametrize(("prompt", "choices", "shown"), [
    ("ETSI ax 40\n21 21\n6 54", ["5510", "5550"], "ETSI ax 40\n21 21   <- 5510\n6 54    <- 5550"),
    ("all in one question", [], "all in one question"),
    ("a head alone", ["5510", "5550"], "a head alone"),  # fewer lines than choices: unchanged
])  # fmt: skip
def test_a_sample_names_the_choice_of_each_line(prompt, choices, shown):
    assert report.name_choices(prompt, choices) == shown


@pytest.mark.parametrize(("text", "true", "shown"), [
    ("528.2857143", "527", "528"), ("0.12349", "0.5", "0.1"), ("527", "527.5", "527"), ("Dr. No", "none", "Dr. No"),
    ("1.5", "0.25", "1.5"), ("", "527", ""),
])  # fmt: skip
def test_a_number_is_shown_with_the_decimals_of_the_true_one(text, true, shown):
    assert report.round_like(text, true) == shown


def test_the_arrow_is_explained_if_a_row_has_a_question_per_choice(tmp_path):
    examples = make_examples()
    for name in ("tuned", "trees"):
        write_run(tmp_path / name, examples, range(40))
    samples = files.read_json(tmp_path / "tuned" / "samples.json")
    samples["template"] = "{standard}\n{snr_db} {busy_pct}"
    samples["samples"][0] |= {"prompt": "ax\n26 14\n36 0", "choices": ["5180", "5200"]}
    files.write_json(tmp_path / "tuned" / "samples.json", samples, force=True)
    report.write_report(tmp_path / "out", make_experiment(tmp_path))
    for page in ("report.html", "report.md"):
        text = (tmp_path / "out" / page).read_text().replace("&lt;", "<")
        assert "26 14   <- 5180\n36 0    <- 5200" in text and "named after the arrow" in text
