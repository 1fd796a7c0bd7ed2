"""Uploads with the real client to a local imitation of the Hub: what arrives, what is sent twice, what fails."""

import generate_synthetic_large
import generate_synthetic_smoke
import hub_stand_in
import push_to_hub
import pytest
from huggingface_hub import constants

TOKEN = "hf_" + "planted" * 4


@pytest.fixture(autouse=True)
def client(monkeypatch):
    """Set the client's settings, which it otherwise reads from the environment when it is imported."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # no server there


@pytest.fixture
def hub(client, monkeypatch):
    with hub_stand_in.serve() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        yield running


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("upload") / "set"
    assert generate_synthetic_smoke.main(["--out-dir", str(folder)]) == 0
    return folder


def push(data_set, *words):
    return push_to_hub.main([str(data_set), "--repo", "me/links", "--license", "cc-by-4.0", *words])


def test_a_push_arrives_complete_and_a_second_one_sends_only_changed_files(hub, data_set):
    assert push(data_set) == 0
    kept = hub.repos["me/links"]
    assert kept["private"] and hub.tokens == {TOKEN}
    assert kept["files"]["links.csv"] == (data_set / "links.csv").read_bytes()
    assert hub.objects[kept["files"]["links.zip"]] == (data_set / "links.zip").read_bytes()
    assert b"license: cc-by-4.0" in kept["files"]["README.md"]
    hub.sent.clear()
    assert push(data_set) == 0
    assert hub.sent == []
    kept["files"]["links.csv"] = b"another\n"  # changed on the Hub by someone else
    assert push(data_set) == 0
    assert hub.sent == ["links.csv"]


def test_generating_uploads_the_finished_set(hub, tmp_path):
    words = ["--n-samples", "60", "--out-dir", str(tmp_path / "set"), "--upload-to-hf", "me/made"]
    assert generate_synthetic_large.main(words) == 0
    made = hub.repos["me/made"]
    assert made["private"] and {"README.md", "links.csv", "links.zip", "manifest.json"} <= made["files"].keys()
    assert made["files"]["links.csv"] == (tmp_path / "set" / "links.csv").read_bytes()
    assert TOKEN not in (tmp_path / "set" / "manifest.json").read_text()


@pytest.mark.parametrize(
    ("status", "expected"), [(401, "401"), (403, "403"), (500, "500")], ids=["token", "rights", "server"]
)
def test_an_error_of_the_hub_is_one_line_with_the_status_and_without_the_token(hub, data_set, status, expected, capfd):
    hub.refuse = status
    assert push(data_set) == 2
    said = capfd.readouterr().err
    assert expected in said.splitlines()[-1]
    assert "Traceback" not in said and TOKEN not in said


@pytest.mark.slow  # the client tries five times, with pauses
def test_a_lost_connection_in_the_middle_is_one_line_and_the_next_push_succeeds(hub, data_set, capfd):
    hub.drop_uploads = True
    assert push(data_set) == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said
    (error,) = [line for line in said.splitlines() if "error: " in line]
    assert "nothing was committed" in error
    assert hub.repos["me/links"]["files"] == {}
    hub.drop_uploads = False
    assert push(data_set) == 0
    assert "links.zip" in hub.repos["me/links"]["files"]
