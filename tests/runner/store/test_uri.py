"""What an address means, and what of it may be shown."""

import pytest
from llm_runner.errors import ConfigInvalid
from llm_runner.store.uri import parse_hub, parse_hub_model, parse_s3, public_uri, scheme_of


@pytest.mark.parametrize(
    ("uri", "scheme"),
    [
        ("s3://bucket/key", "s3"),
        ("hf://datasets/a/b/c.csv", "hf"),
        ("https://example.org/x", "https"),
        ("http://example.org/x", "https"),
        ("file:///data/x", "file"),
        ("data/x.csv", "file"),
        ("/data/x.csv", "file"),
    ],
)
def test_an_address_names_its_own_way(uri: str, scheme: str) -> None:
    assert scheme_of(uri) == scheme


def test_another_scheme_names_those_that_there_are() -> None:
    with pytest.raises(ConfigInvalid, match="gs:// is not known here; use s3://, hf://, https:// or"):
        scheme_of("gs://bucket/key")


def test_parts_of_an_s3_address() -> None:
    assert str(parse_s3("s3://bucket/a/b/")) == "s3://bucket/a/b"
    assert parse_s3("s3://bucket").prefix == ""
    assert parse_s3("s3://bucket/a").at("b.csv").key == "a/b.csv"
    with pytest.raises(ConfigInvalid, match="write s3://BUCKET/PATH"):
        parse_s3("s3:///a")


def test_parts_of_a_hub_address() -> None:
    location = parse_hub("hf://datasets/acme/rows@v2/part/train.csv")
    assert (location.repo_id, location.repo_type) == ("acme/rows", "dataset")
    assert (location.revision, location.path) == ("v2", "part/train.csv")
    assert parse_hub("hf://acme/tiny/rows.csv").repo_type == "model"
    assert parse_hub_model("acme/tiny@main").revision == "main"
    assert parse_hub_model("gpt2").repo_id == "gpt2"
    with pytest.raises(ConfigInvalid, match="write hf://datasets/OWNER/NAME/FILE"):
        parse_hub("hf://datasets/acme")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://files.example/rows.csv?X-Amz-Signature=5ec2e7&X=1#part", "https://files.example/rows.csv"),
        ("https://user:pass@files.example:8443/rows.csv", "https://files.example:8443/rows.csv"),
        ("s3://bucket/rows.csv", "s3://bucket/rows.csv"),
        ("/data/what?.csv", "/data/what?.csv"),
    ],
)
def test_what_opens_an_address_is_not_shown(uri: str, shown: str) -> None:
    assert public_uri(uri) == shown
