"""The real hub client against a hub of our own: models, data, uploads, and every way to be refused."""

from pathlib import Path

import pytest
from llm_api.run import S3Settings
from llm_runner.errors import (
    ConfigInvalid,
    DataInvalid,
    ModelAccessDenied,
    ModelNotFound,
    OutputNotWritable,
    StorageFailed,
)
from llm_runner.store.fetch import fetch_file, fetch_model
from llm_runner.store.hub import is_hidden, publish_to_hub, read_token

from tests.support.hub import COMMIT, READER, TOKEN, HubServer

S3 = S3Settings()


def add_model(hub: HubServer, *marks: str) -> Path:
    path = hub.add_repository("acme/tiny")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "pytorch_model.bin", *marks):
        (path / name).write_text("{}")
    (path / "onnx").mkdir()
    (path / "onnx" / "model.safetensors").write_text("another layout")
    return path


@pytest.mark.proves("base_model")
def test_a_model_is_fetched_with_its_revision_and_without_pickles_or_other_layouts(
    hub: HubServer, tmp_path: Path
) -> None:
    add_model(hub)
    found = fetch_model("acme/tiny", cache_path=tmp_path)
    assert found.revision == COMMIT
    assert sorted(path.name for path in found.path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_what_is_in_the_cache_is_not_fetched_again(hub: HubServer, tmp_path: Path) -> None:
    add_model(hub)
    fetch_model("acme/tiny", cache_path=tmp_path)
    hub.requests.clear()
    fetch_model("acme/tiny", cache_path=tmp_path)
    assert not [request for request in hub.requests if "resolve" in request and request.startswith("GET")]


def test_a_data_file_is_fetched_out_of_its_repository(hub: HubServer, tmp_path: Path) -> None:
    (hub.add_repository("acme/rows", "datasets") / "train.csv").write_text("a\n1\n")
    path = fetch_file("hf://datasets/acme/rows/train.csv", tmp_path, S3)
    assert (path.name, path.read_text()) == ("train.csv", "a\n1\n")


def test_a_gated_model_says_to_accept_its_licence_and_where_the_token_goes(hub: HubServer, tmp_path: Path) -> None:
    add_model(hub, ".gated")
    with pytest.raises(ModelAccessDenied, match=r"acme/tiny is gated: accept its licence .*HF_TOKEN.*credentials\.hug"):
        fetch_model("acme/tiny", cache_path=tmp_path)
    assert fetch_model("acme/tiny", cache_path=tmp_path, token=TOKEN).revision == COMMIT


def test_a_private_model_opens_with_its_token_only(hub: HubServer, tmp_path: Path) -> None:
    add_model(hub, ".private")
    with pytest.raises(ModelNotFound, match=r"no such public repository .*if it is private, give a token"):
        fetch_model("acme/tiny", cache_path=tmp_path)
    with pytest.raises(ModelAccessDenied, match=r"the hub refused the token \(401\)") as caught:
        fetch_model("acme/tiny", cache_path=tmp_path, token="hf_wrong_and_secret")
    assert "hf_wrong_and_secret" not in str(caught.value)
    assert fetch_model("acme/tiny", cache_path=tmp_path, token=TOKEN).revision == COMMIT


@pytest.mark.parametrize("variable", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_a_token_in_the_environment_opens_a_gated_model_by_either_name(
    variable: str, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_model(hub, ".gated")
    monkeypatch.setenv(variable, TOKEN)
    assert fetch_model("acme/tiny", cache_path=tmp_path).revision == COMMIT


def test_a_missing_model_file_or_repository_is_the_users_mistake(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repository("acme/rows", "datasets")
    with pytest.raises(ModelNotFound, match="acme/none: the hub has no such public repository"):
        fetch_model("acme/none", cache_path=tmp_path)
    with pytest.raises(DataInvalid, match="acme/rows: the hub has the repository, but not this file"):
        fetch_file("hf://datasets/acme/rows/none.csv", tmp_path, S3)
    with pytest.raises(DataInvalid, match="is a whole repository; name a file in it"):
        fetch_file("hf://datasets/acme/rows", tmp_path, S3)
    with pytest.raises(ConfigInvalid, match="is neither a folder here nor a hub's OWNER/NAME"):
        fetch_model("not a name", cache_path=tmp_path)


def test_an_artifact_is_uploaded_into_a_repository_that_is_made_for_it(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "out" / "deep").mkdir(parents=True)
    (tmp_path / "out" / "README.md").write_text("---\ntags: [llm-operator]\n---\n# Tuned\n")
    (tmp_path / "out" / "deep" / "adapter.safetensors").write_bytes(b"\x00\xff" * 100)
    address = publish_to_hub(tmp_path / "out", "acme/tuned", private=True, token=TOKEN)
    stored = hub.root / "models" / "acme" / "tuned"
    assert address == f"{hub.endpoint}/acme/tuned/commit/{COMMIT}"
    assert (stored / ".private").is_file()
    assert (stored / "deep" / "adapter.safetensors").read_bytes() == b"\x00\xff" * 100
    publish_to_hub(tmp_path / "out", "acme/tuned", private=True, token=TOKEN)


def test_what_a_repository_is_counts_and_not_what_is_asked_for_one_that_is_there(hub: HubServer) -> None:
    assert [is_hidden("acme/new", private=private, token=TOKEN) for private in (True, False)] == [True, False]
    stored = hub.add_repository("acme/there")
    assert is_hidden("acme/there", private=True, token=TOKEN) is False
    (stored / ".private").touch()
    assert is_hidden("acme/there", private=False, token=TOKEN) is True


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to upload, to a hub that knows no newer way for large files than Git LFS; the choice is undone."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    monkeypatch.delenv("HF_HUB_DISABLE_XET", raising=False)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "README.md").write_text("# Tuned\n")
    for name in ("first", "second"):
        (folder / f"{name}.safetensors").write_bytes(name.encode() * 1000)
    return folder


# The hub's library sends large files in a way that its HTTP client deprecates.
@pytest.mark.filterwarnings("ignore:Use 'content=")
def test_weights_are_uploaded_as_large_files_where_the_hub_wants_them_so(hub: HubServer, weights: Path) -> None:
    stored = hub.add_repository("acme/tuned")
    (stored / ".lfs").touch()
    address = publish_to_hub(weights, "acme/tuned", private=False, token=TOKEN)
    assert address == f"{hub.endpoint}/acme/tuned/commit/{COMMIT}"
    for path in weights.iterdir():
        assert (stored / path.name).read_bytes() == path.read_bytes()
    assert len([request for request in hub.requests if request.startswith("PUT lfs/")]) == 2
    hub.requests.clear()
    publish_to_hub(weights, "acme/tuned", private=False, token=TOKEN)
    assert not [request for request in hub.requests if request.startswith("PUT")]


# The hub's library sends large files in a way that its HTTP client deprecates.
@pytest.mark.filterwarnings("ignore:Use 'content=")
def test_a_large_file_that_is_refused_is_told_as_such_and_nothing_is_committed(hub: HubServer, weights: Path) -> None:
    stored = hub.add_repository("acme/tuned")
    (stored / ".lfs").touch()
    hub.refused_files.add((weights / "second.safetensors").read_bytes())
    with pytest.raises(OutputNotWritable, match=r"acme/tuned: the hub refused the token \(403\)"):
        publish_to_hub(weights, "acme/tuned", private=False, token=TOKEN)
    assert [path.name for path in stored.iterdir()] == [".lfs"]


@pytest.mark.parametrize("there", [True, False], ids=["there", "new"])
@pytest.mark.parametrize(("token", "status"), [("hf_wrong_and_secret", 401), (READER, 403), (None, 401)])
def test_an_upload_without_the_right_token_is_not_allowed(
    token: str | None, status: int, there: bool, hub: HubServer, weights: Path
) -> None:
    """Whether the repository is there to be read or not."""
    if there:
        hub.add_repository("acme/tuned")
    with pytest.raises(
        OutputNotWritable,
        match=rf"acme/tuned: the hub refused the token \({status}\); give a token by HF_TOKEN .* that may write there",
    ) as caught:
        publish_to_hub(weights, "acme/tuned", private=True, token=token)
    assert "hf_wrong_and_secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "two words", "hf_tökén", "hf_a\nhf_b"])
def test_what_can_be_no_token_is_refused_before_the_hub_is_asked(text: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigInvalid, match=r"credentials.huggingFace: .*token holds no token; it is one word"):
        read_token(str(path))
    path.write_text("hf_abc\n")
    assert read_token(str(path)) == "hf_abc"


def test_a_hub_that_can_not_be_reached_may_be_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    unreachable = "the hub could not be reached .*Trying again may help"
    with pytest.raises(StorageFailed, match=unreachable):
        fetch_model("acme/tiny", cache_path=tmp_path)
    with pytest.raises(StorageFailed, match=unreachable):
        fetch_file("hf://datasets/acme/rows/train.csv", tmp_path / "data", S3)
    with pytest.raises(StorageFailed, match=unreachable):
        publish_to_hub(tmp_path, "acme/tuned", private=True, token=TOKEN)
