"""A misspelt model name is an error with the name probably meant: at once, or after one try without a network."""

import hub_stand_in
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
def hub(tmp_path, monkeypatch):
    """A broken Hub on loopback, used by this process's client with an empty cache."""
    from huggingface_hub import constants

    with hub_stand_in.serve() as running:
        running.refuse = 503
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        base_names.require_on_hub.cache_clear()
        yield running
        base_names.require_on_hub.cache_clear()


@pytest.mark.parametrize(("status", "headers", "said"), [
    (503, {}, "google/gema: no such folder here, and the Hub cannot be reached (http"),
    (404, {"X-Error-Code": "RepoNotFound"}, "google/gema: no such folder here and no such model on the Hub"),
])  # fmt: skip
def test_an_unknown_hub_name_costs_one_request(hub, status, headers, said):
    hub.refuse, hub.headers = status, headers
    with pytest.raises(UserError) as refused:
        load.load_tokenizer("google/gema")
    assert str(refused.value).startswith(said) and "\n" not in str(refused.value)
    assert [request for request in hub.asked if "gema" in request] == ["HEAD /google/gema/resolve/main/config.json"]


def test_a_gated_model_is_not_called_missing(hub):
    hub.refuse, hub.headers = 401, {"X-Error-Code": "GatedRepo"}
    base_names.require_on_hub("google/gema")


def test_without_a_network_a_model_in_the_cache_is_used_after_one_try(tmp_path, hub, cache, capsys):
    kept = tmp_path / "hub" / "models--someone--small"
    (kept / "snapshots").mkdir(parents=True)
    (kept / "snapshots" / ("0" * 40)).symlink_to(load.make_tiny())
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0" * 40)
    assert len(load.load_tokenizer("someone/small")) == len(load.load_tokenizer("tiny"))
    assert "the Hub cannot be reached; using the copy in the local cache" in capsys.readouterr().err
    assert [request for request in hub.asked if "small" in request] == ["HEAD /someone/small/resolve/main/config.json"]
