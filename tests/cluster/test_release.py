"""The release as its administrators handle it with Helm, in real pods."""

import json
from collections.abc import Iterator

import pytest

from tests.support.charts import run_helm
from tests.support.installation import NAMESPACE, RELEASE, Installation
from tests.support.tuning import build_fine_tune

pytestmark = pytest.mark.timeout(1800)
"""The first of them waits for images to be built."""


@pytest.fixture(scope="module")
def with_webhook(installation: Installation) -> Iterator[Installation]:
    """For some tests: with it, others would be told at apply what they want to see in a status."""
    installation.upgrade({"webhook": {"enabled": True}})
    yield installation
    installation.upgrade()


def test_helm_test_passes(installation: Installation) -> None:
    said = run_helm("test", RELEASE, "--namespace", NAMESPACE, kubeconfig=installation.cluster.kubeconfig)
    assert "Phase:          Succeeded" in said


def test_with_the_webhook_apply_names_what_the_schema_cannot_know(with_webhook: Installation) -> None:
    namespace = with_webhook.make_namespace()
    config = {"prompt": {"template": "{question"}}
    compute = {"podTemplate": {"spec": {"nodeSelectr": {}}}}
    manifest = build_fine_tune(with_webhook, namespace, "wrong", config=config, compute=compute)
    refused = with_webhook.cluster.run_kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    assert refused.returncode == 1
    for path in ("spec.config.prompt.template", "spec.compute.podTemplate.spec.nodeSelectr"):
        assert path in refused.stderr


def test_with_the_webhook_a_good_manifest_is_taken(with_webhook: Installation) -> None:
    namespace = with_webhook.make_namespace()
    with_webhook.cluster.apply(build_fine_tune(with_webhook, namespace, "right", run={"suspend": True}))
    with_webhook.cluster.wait_for("condition=SpecValid", "llmft/right", namespace, 60)
