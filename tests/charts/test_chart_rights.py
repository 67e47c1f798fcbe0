"""The operator may do what it does and nothing else, as a real API server judges the chart's roles."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes.client import AuthorizationV1Api, V1SubjectAccessReview
from llm_operator.watched import ALL, OBJECTS, WatchedKind

from tests.support.charts import NAMESPACE, Manifest, Values, of_kind, render
from tests.support.cluster.access import Access
from tests.support.cluster.control_plane import run_control_plane

ACCOUNT = f"system:serviceaccount:{NAMESPACE}:try-llm-operator"
GROUPS = ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"]
LEASE = "try-llm-operator"
RIGHTS = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
READ = ("get", "list", "watch")
WRITE = ("create", "patch", "delete")
MADE = ("Job", "Deployment", "HorizontalPodAutoscaler", "ConfigMap", "Service")
"""Kinds that the operator makes."""

# Group, resource (with its subresource, if any), verb; of the namespaces that it looks after.
NEEDED = [
    *((kind.group, kind.plural, verb) for kind in ALL for verb in READ),
    *((kind.group, kind.plural, verb) for kind in OBJECTS if kind.kind in MADE for verb in WRITE),
    *(("llmoperator.dev", plural, "patch") for plural in ("llmfinetunes", "llminferences")),
    *(("llmoperator.dev", f"{plural}/status", "patch") for plural in ("llmfinetunes", "llminferences")),
    *(("llmoperator.dev", f"{plural}/finalizers", "update") for plural in ("llmfinetunes", "llminferences")),
    ("events.k8s.io", "events", "create"),
    ("", "namespaces", "get"),
]
REFUSED = [
    *(("", "secrets", verb) for verb in (*READ, *WRITE, "update")),
    *(("", "pods", verb) for verb in (*WRITE, "update")),
    *(("", resource, verb) for resource in ("pods/exec", "pods/ephemeralcontainers") for verb in ("create", "get")),
    ("", "pods/log", "get"),
    ("", "serviceaccounts/token", "create"),
    ("", "serviceaccounts", "create"),
    ("", "persistentvolumeclaims", "get"),
    ("", "nodes", "list"),
    ("", "namespaces", "list"),
    ("", "namespaces", "delete"),
    ("apps", "daemonsets", "create"),
    ("llmoperator.dev", "llmfinetunes", "create"),
    ("llmoperator.dev", "llmfinetunes", "delete"),
    ("llmoperator.dev", "llmfinetunes", "update"),
    ("rbac.authorization.k8s.io", "roles", "create"),
    ("rbac.authorization.k8s.io", "rolebindings", "create"),
    ("apiextensions.k8s.io", "customresourcedefinitions", "update"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", "get"),
]


class Judge:
    """Asks the API server whether the operator may."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def allows(self, group: str, resource: str, verb: str, namespace: str | None, name: str | None = None) -> bool:
        plural, _, subresource = resource.partition("/")
        attributes = {"group": group, "resource": plural, "subresource": subresource, "verb": verb}
        attributes |= {key: value for key, value in (("namespace", namespace), ("name", name)) if value is not None}
        spec = {"user": ACCOUNT, "groups": GROUPS, "resourceAttributes": attributes}
        review = V1SubjectAccessReview.model_validate({"spec": spec})
        with self._access.client() as client:
            answer = AuthorizationV1Api(client).create_subject_access_review(review)
        assert answer.status is not None
        return answer.status.allowed

    def denied(self, asked: list[tuple[str, str, str]], namespace: str | None) -> list[tuple[str, str, str]]:
        return [one for one in asked if not self.allows(*one, namespace)]

    def allowed(self, asked: list[tuple[str, str, str]], namespace: str | None) -> list[tuple[str, str, str]]:
        return [one for one in asked if self.allows(*one, namespace)]


def run_judge(folder: Path, values: Values) -> Iterator[Judge]:
    """An API server of its own, as roles of the whole cluster would be seen by every other test."""
    names = (NAMESPACE, "ml", "other")
    with run_control_plane(folder) as plane:
        plane.apply(*({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in names))
        plane.apply(*(one for one in render(values) if one["kind"] in RIGHTS))
        yield Judge(plane)


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    yield from run_judge(tmp_path_factory.mktemp("everywhere"), {})


@pytest.fixture(scope="module")
def in_one_namespace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    yield from run_judge(tmp_path_factory.mktemp("one-namespace"), {"watchNamespaces": ["ml"]})


def test_the_operator_of_all_namespaces_may_do_all_that_it_does(everywhere: Judge) -> None:
    watches = [(kind.group, kind.plural, verb) for kind in ALL for verb in READ]
    assert everywhere.denied(watches, None) == []
    assert everywhere.denied(NEEDED, "ml") == []


def test_the_operator_of_all_namespaces_may_do_nothing_else(everywhere: Judge) -> None:
    assert everywhere.allowed(REFUSED, None) == []
    assert everywhere.allowed(REFUSED, NAMESPACE) == []


def test_the_operator_of_one_namespace_may_do_all_that_it_does_there(in_one_namespace: Judge) -> None:
    assert in_one_namespace.denied(NEEDED, "ml") == []
    assert in_one_namespace.allows("", "namespaces", "get", "ml", "ml")


def test_the_operator_of_one_namespace_may_do_nothing_elsewhere(in_one_namespace: Judge) -> None:
    assert in_one_namespace.allowed(REFUSED, "ml") == []
    for namespace in ("other", NAMESPACE, None):
        assert in_one_namespace.allowed(NEEDED, namespace) == []


def test_the_operator_may_have_runners_tokens_looked_at(everywhere: Judge, in_one_namespace: Judge) -> None:
    for judge in (everywhere, in_one_namespace):
        assert judge.allows("authentication.k8s.io", "tokenreviews", "create", None)


@pytest.mark.parametrize("verb", ["get", "update"])
def test_the_operator_may_renew_its_own_lease_and_no_other(everywhere: Judge, verb: str) -> None:
    assert everywhere.allows("coordination.k8s.io", "leases", "create", NAMESPACE)
    assert everywhere.allows("coordination.k8s.io", "leases", verb, NAMESPACE, LEASE)
    assert not everywhere.allows("coordination.k8s.io", "leases", verb, NAMESPACE, "another")
    assert not everywhere.allows("coordination.k8s.io", "leases", verb, "ml", LEASE)


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["ml", "research"]}], ids=["all", "some"])
def test_no_role_speaks_of_secrets_or_of_everything(values: Values) -> None:
    roles = [role for role in render(values) if role["kind"] in ("Role", "ClusterRole")]
    rules = [rule for role in roles for rule in role["rules"]]
    named = {name for rule in rules for key in ("apiGroups", "resources", "verbs") for name in rule[key]}
    assert named & {"*", "secrets", "escalate", "bind", "impersonate"} == set()


def aggregated(to: str) -> list[Manifest]:
    label = f"rbac.authorization.k8s.io/aggregate-to-{to}"
    return [role for role in of_kind(render(), "ClusterRole") if role["metadata"]["labels"].get(label) == "true"]


def verbs_of(roles: list[Manifest], resource: str) -> set[str]:
    return {verb for role in roles for rule in role["rules"] if resource in rule["resources"] for verb in rule["verbs"]}


def test_who_may_view_a_namespace_sees_its_fine_tunes_and_inferences() -> None:
    for resource in ("llmfinetunes", "llmfinetunes/status", "llminferences", "llminferences/scale"):
        assert verbs_of(aggregated("view"), resource) == set(READ)


@pytest.mark.parametrize("to", ["edit", "admin"])
def test_who_may_edit_a_namespace_may_edit_and_scale_but_not_write_a_status(to: str) -> None:
    roles = aggregated(to)
    assert {"create", "update", "patch", "delete", "deletecollection", *READ} == verbs_of(roles, "llmfinetunes")
    assert {"update", "patch"} <= verbs_of(roles, "llminferences/scale")
    assert verbs_of(roles, "llmfinetunes/status") == set(READ)


def test_every_watched_kind_is_one_that_was_thought_of() -> None:
    assert all(isinstance(kind, WatchedKind) for kind in ALL)
    assert {kind.kind for kind in OBJECTS} == {*MADE, "Pod", "LLMFineTune", "LLMInference"}
