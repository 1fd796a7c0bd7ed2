"""Fixtures for several test files: a separate cache, generated links, a table with a rule, fresh processes."""

import contextlib
import gc
import io
import os

import fresh_process
import pytest
from rule_table import train_on_rule, write_rule_table

os.fsync = lambda descriptor: None  # needed only for a power cut, which no test makes
gc.disable()  # during imports, which create no garbage: saves a fifth of their time
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tiny model is faster on one thread; read when torch is imported


def pytest_collection_finish(session):
    if any("start_process" in getattr(item, "fixturenames", ()) for item in session.items):
        with contextlib.redirect_stderr(io.StringIO()):  # bitsandbytes reports libraries that a CPU does not need
            fresh_process.start_server()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Keep imported and built models out of the user's cache; return the folder."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("LINKLAB_CACHE")
    os.environ["LINKLAB_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["LINKLAB_CACHE"]
    else:
        os.environ["LINKLAB_CACHE"] = before


@pytest.fixture(scope="session")
def small_links(tmp_path_factory):
    """A folder with 200 generated links (links.csv) and the conversations made from them (jsonl/)."""
    import convert_csv_to_jsonl
    import generate_synthetic_large

    folder = tmp_path_factory.mktemp("small_links")
    assert generate_synthetic_large.main(["--n-samples", "200", "--seed", "3", "--out-dir", str(folder / "data")]) == 0
    (folder / "links.csv").write_bytes((folder / "data" / "links.csv").read_bytes())
    assert convert_csv_to_jsonl.main(["--csv", str(folder / "links.csv"), "--out-dir", str(folder / "jsonl")]) == 0
    return folder


@pytest.fixture(scope="session")
def rule_table(tmp_path_factory):
    """A CSV of 400 rows that the tiny model learns in seconds."""
    return write_rule_table(tmp_path_factory.mktemp("rule") / "animals.csv")


@pytest.fixture(scope="session")
def taught_rule(tmp_path_factory):
    """The tiny model trained on the rule, and its evaluation on the test split."""
    return train_on_rule(tmp_path_factory.mktemp("taught_rule"))


RENDERED: list[bytes] = []


@pytest.fixture(scope="module", autouse=True)
def rendered_once():
    """Draw each test file's first plot of each kind; render only the first one, and use its PNG for the others.

    A test file that looks at pictures has an empty fixture of this name.
    """
    from linklab.reports import plots
    from linklab.studies import plots as study_plots
    from matplotlib.figure import Figure

    render, draw_png, drawn = Figure.savefig, plots.draw_png, set()

    def savefig(figure, buffer, **options):
        if not RENDERED:
            render(figure, buffer, **options)
            RENDERED.append(buffer.getvalue())
        else:
            buffer.write(RENDERED[0])

    def draw_once(size, draw, **grid):
        if draw.__qualname__ in drawn:
            return RENDERED[0]
        drawn.add(draw.__qualname__)
        return draw_png(size, draw, **grid)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        patch.setattr(plots, "draw_png", draw_once)
        patch.setattr(study_plots, "draw_png", draw_once)
        yield


@pytest.fixture(scope="module", autouse=True)
def few_trees():
    """Boost with about a tenth of the trees; tests/baselines/ tests the results with all of them."""
    from linklab.baselines import boosting

    with pytest.MonkeyPatch.context() as patch:
        for name, rounds in (("FLAT_ROUNDS", 10), ("POINTWISE_ROUNDS", 20), ("CANDIDATE_ROUNDS", 15)):
            patch.setattr(boosting, name, rounds)
        yield


@pytest.fixture(scope="module", autouse=True)
def imported_things_are_not_garbage():
    """Skip the garbage collection of every training: a third of a second over all of torch, and nothing found."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def start_process(cache, tmp_path_factory):
    """Start `module.function(*arguments)` in a new process; returns (process, path of its output)."""
    logs = tmp_path_factory.mktemp("process_logs")

    def start(module: str, function: str, *arguments):
        log = logs / f"{len(list(logs.iterdir()))}.txt"
        log.touch()
        return fresh_process.start(log, module, function, arguments), log

    return start
