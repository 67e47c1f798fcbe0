from dataclasses import fields
from pathlib import Path

import pytest
from llm_operator.errors import SettingsInvalid
from llm_operator.options import SETTINGS_HELP, Options, build_parser, load_all
from llm_operator.replica import address_of, identity_of
from llm_operator.settings import Settings

IMAGE = {"LLM_OPERATOR_RUNNER_IMAGE": "runner:1"}


def test_the_runner_image_is_all_that_must_be_said() -> None:
    options, settings = load_all([], IMAGE)
    assert (options.status_port, options.progress_port, options.leader_election) == (8080, 8081, False)
    assert options.webhook_cert_dir is None
    assert settings.runner_image == "runner:1"


def test_a_flag_outdoes_the_environment() -> None:
    environ = {**IMAGE, "LLM_OPERATOR_STATUS_PORT": "1", "LLM_OPERATOR_LEADER_ELECTION": "true"}
    options, settings = load_all(["--status-port", "2", "--runner-image", "runner:2"], environ)
    assert (options.status_port, options.leader_election, settings.runner_image) == (2, True, "runner:2")


def test_paths_and_lists_are_read() -> None:
    options, settings = load_all(["--webhook-cert-dir", "/tls", "--watch-namespaces", "a, b"], IMAGE)
    assert options.webhook_cert_dir == Path("/tls")
    assert settings.watch_namespaces == ("a", "b")


@pytest.mark.parametrize(
    ("name", "value"),
    [("STATUS_PORT", "x"), ("STATUS_PORT", "70000"), ("LOG_FORMAT", "xml"), ("WORKERS", "0"), ("RESYNC_SECONDS", "1")],
)
def test_a_value_that_can_not_be_is_named_with_its_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsInvalid, match=f"LLM_OPERATOR_{name} is '{value}'"):
        load_all([], {**IMAGE, f"LLM_OPERATOR_{name}": value})


def test_help_says_what_each_flag_does() -> None:
    assert SETTINGS_HELP.keys() == {field.name for field in fields(Settings)}
    text = " ".join(build_parser().format_help().split())
    for name in [*SETTINGS_HELP, *Options.model_fields]:
        assert f"--{name.replace('_', '-')}" in text
    assert all(option.description for option in Options.model_fields.values())


@pytest.mark.parametrize(
    ("address", "url"), [("10.0.0.7", "http://10.0.0.7:8081"), ("fd00::7", "http://[fd00::7]:8081"), (None, None)]
)
def test_a_replica_is_found_by_its_identity(address: str | None, url: str | None) -> None:
    options = Options(replica_name="llm_operator-0", replica_address=address)
    assert address_of(identity_of(options)) == url
