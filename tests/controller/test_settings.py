"""Settings are read from the environment, and everything that is wrong is said at once."""

import pytest
from llm_operator.errors import SettingsInvalid
from llm_operator.settings import Settings, load_settings


def test_settings_come_from_variables_named_after_them() -> None:
    environ = {
        "LLM_OPERATOR_RUNNER_IMAGE": "runner:1",
        "LLM_OPERATOR_WATCH_NAMESPACES": "a, b",
        "LLM_OPERATOR_GRACE_PERIOD_SECONDS": "30",
        "LLM_OPERATOR_STATUS_INTERVAL_SECONDS": "0.5",
        "LLM_OPERATOR_PROGRESS_URL": "",
    }
    settings = load_settings(environ)
    assert settings == Settings(
        "runner:1", watch_namespaces=("a", "b"), grace_period_seconds=30, status_interval_seconds=0.5
    )


def test_every_mistake_is_named_with_what_to_write() -> None:
    environ = {"LLM_OPERATOR_GRACE_PERIOD_SECONDS": "soon", "LLM_OPERATOR_METRICS_PORT": "x"}
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(environ)
    for words in ("GRACE_PERIOD_SECONDS is 'soon'", "METRICS_PORT is 'x'", "RUNNER_IMAGE is missing"):
        assert words in str(caught.value)
