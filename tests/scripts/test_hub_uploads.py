"""Uploads through the real client against a local stand-in of the Hub: what arrives, what is sent twice, what fails."""

import os
import subprocess
import sys
from pathlib import Path

import hub_stand_in
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
TOKEN = "hf_" + "planted" * 4


@pytest.fixture
def hub():
    with hub_stand_in.serve() as running:
        yield running


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("upload") / "set"
    done = run("generate_synthetic_smoke.py", "--out-dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


def run(script, *words, hub=None, **more):
    env = os.environ | {"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"} | more
    env |= {"HF_ENDPOINT": hub.url} if hub else {}
    command = [sys.executable, str(SCRIPTS / script), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=120)


def push(hub, data_set, *words, **more):
    return run("push_to_hub.py", data_set, "--repo", "me/links", "--license", "cc-by-4.0", *words, hub=hub, **more)


def test_a_push_arrives_whole_and_a_second_one_sends_only_what_changed(hub, data_set):
    first = push(hub, data_set)
    assert first.returncode == 0, first.stderr
    kept = hub.repos["me/links"]
    assert kept["private"] and hub.tokens == {TOKEN}
    assert kept["files"]["links.csv"] == (data_set / "links.csv").read_bytes()
    assert hub.objects[kept["files"]["links.zip"]] == (data_set / "links.zip").read_bytes()
    assert b"license: cc-by-4.0" in kept["files"]["README.md"]
    hub.sent.clear()
    again = push(hub, data_set)
    assert again.returncode == 0, again.stderr
    assert hub.sent == []
    kept["files"]["links.csv"] = b"another\n"  # somebody changed it there
    assert push(hub, data_set).returncode == 0
    assert hub.sent == ["links.csv"]


def test_generating_uploads_the_finished_set(hub, tmp_path):
    words = ["--n-samples", "60", "--out-dir", tmp_path / "set", "--upload-to-hf", "me/made"]
    done = run("generate_synthetic_large.py", *words, hub=hub)
    assert done.returncode == 0, done.stderr
    assert hub.repos["me/made"]["private"]
    assert hub.repos["me/made"]["files"]["links.csv"] == (tmp_path / "set" / "links.csv").read_bytes()


@pytest.mark.parametrize(
    ("status", "expected"), [(401, "401"), (403, "403"), (500, "500")], ids=["token", "rights", "server"]
)
def test_a_refusal_is_one_line_with_the_status_and_without_the_token(hub, data_set, status, expected):
    hub.refuse = status
    done = push(hub, data_set)
    assert done.returncode == 2 and expected in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr and TOKEN not in done.stderr


@pytest.mark.slow  # the client tries five times, with pauses
def test_a_lost_connection_in_the_middle_is_one_line_and_the_next_push_succeeds(hub, data_set):
    hub.drop_uploads = True
    done = push(hub, data_set)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "nothing was committed" in error
    assert hub.repos["me/links"]["files"] == {}
    hub.drop_uploads = False
    assert push(hub, data_set).returncode == 0
    assert "links.zip" in hub.repos["me/links"]["files"]


def test_an_existing_public_repository_is_refused_before_anything_is_sent(hub, data_set):
    hub.repos["me/links"] = {"private": False, "files": {}}
    done = push(hub, data_set)
    assert done.returncode == 2 and "me/links" in done.stderr.splitlines()[-1]
    assert hub.sent == [] and hub.repos["me/links"]["files"] == {}


def test_no_hub_at_all_is_one_line(data_set):
    done = push(None, data_set, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
