"""A misspelt model name ends at once with what was probably meant; without a network, after one short try."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from linklab.cli import UserError
from linklab.models import base_names, load


@pytest.mark.parametrize(("name", "said"), [
    ("embeded", "embeded: no such model; did you mean embedded?"),
    ("Tiny", "Tiny: no such model; did you mean tiny?"),
    ("runs/loar", "runs/loar: no such model folder; did you mean runs/lora?"),
    ("runs/lora/modle", "runs/lora/modle: no such model folder; did you mean runs/lora/model?"),
    ("./runs/Lora", "./runs/Lora: no such model folder; did you mean runs/lora?"),
    ("runs/quite-another", "runs/quite-another: no such model folder; a model is a folder, a Hub id"),
])  # fmt: skip
def test_a_misspelt_folder_or_built_in_name_is_refused_with_the_closest(tmp_path, monkeypatch, cache, name, said):
    (tmp_path / "runs" / "lora" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        load.resolve(name)
    assert str(refused.value).startswith(said)


@pytest.fixture
def hub():
    """A Hub on loopback that gives every request the status in `answers`, and remembers what was asked for."""
    asked, answers = [], {"status": 503, "headers": {}}

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            asked.append(f"{self.command} {self.path}")
            self.send_response(answers["status"])
            for header in answers["headers"].items():
                self.send_header(*header)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = answer

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked, answers
    server.shutdown()
    server.server_close()


@pytest.fixture
def at_hub(tmp_path, monkeypatch, hub):
    """The client of this process asks the stand-in, with an empty cache; returns its requests and answers."""
    from huggingface_hub import constants

    url, asked, answers = hub
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    base_names.require_on_hub.cache_clear()
    yield asked, answers
    base_names.require_on_hub.cache_clear()


@pytest.mark.parametrize(("status", "headers", "said"), [
    (503, {}, "google/gema: no such folder here, and the Hub cannot be reached (http"),
    (404, {"X-Error-Code": "RepoNotFound"}, "google/gema: no such folder here, and no such model on the Hub"),
])  # fmt: skip
def test_an_unknown_hub_name_costs_one_request(at_hub, status, headers, said):
    asked, answers = at_hub
    answers |= {"status": status, "headers": headers}
    with pytest.raises(UserError) as refused:
        load.load_tokenizer("google/gema")
    assert str(refused.value).startswith(said) and "\n" not in str(refused.value)
    assert [request for request in asked if "gema" in request] == ["HEAD /google/gema/resolve/main/config.json"]


def test_a_gated_model_is_not_called_missing(at_hub):
    _, answers = at_hub
    answers |= {"status": 401, "headers": {"X-Error-Code": "GatedRepo"}}
    base_names.require_on_hub("google/gema")


def test_without_a_network_a_model_in_the_cache_is_used_after_one_try(tmp_path, at_hub, cache, capsys):
    asked, _ = at_hub
    kept = tmp_path / "hub" / "models--someone--small"
    (kept / "snapshots").mkdir(parents=True)
    (kept / "snapshots" / ("0" * 40)).symlink_to(load.make_tiny())
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0" * 40)
    assert len(load.load_tokenizer("someone/small")) == len(load.load_tokenizer("tiny"))
    assert "the Hub cannot be reached; using the copy in its cache" in capsys.readouterr().err
    assert [request for request in asked if "small" in request] == ["HEAD /someone/small/resolve/main/config.json"]
