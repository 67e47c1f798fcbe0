"""Pods on the cluster's node behave as on any other: what the operator relies on is true here too."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
import requests
from botocore.config import Config
from kubernetes import client

from tests.support.cluster.cluster import Cluster
from tests.support.cluster.workloads import build_job, build_pod, build_service
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, S3Server, run_s3_server

PORT = 8000
SERVE = f"""
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"from " + os.environ["HOSTNAME"].encode())
http.server.ThreadingHTTPServer(("", {PORT}), Handler).serve_forever()
"""
# A service refuses for the moment between a pod's being ready and the node's having heard of it.
ASK = """
import time, urllib.request
for attempt in range(50):
    try:
        print(urllib.request.urlopen("http://web", timeout=10).read().decode())
        break
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ConnectionRefusedError):
            raise
        time.sleep(0.2)
"""
READY = {"httpGet": {"port": PORT, "path": "/"}, "periodSeconds": 1}


def logs(cluster: Cluster, namespace: str, target: str) -> str:
    return cluster.kubectl("logs", target, "--namespace", namespace)


def run_to_end(cluster: Cluster, namespace: str, pod: dict[str, Any]) -> dict[str, Any]:
    """Runs the pod, and gives how its container ended."""
    name = pod["metadata"]["name"]
    cluster.apply(in_namespace(pod, namespace))
    cluster.wait_for("jsonpath={.status.containerStatuses[0].state.terminated}", f"pod/{name}", namespace)
    ended: dict[str, Any] = cluster.get("pod", name, namespace)["status"]["containerStatuses"][0]["state"]["terminated"]
    return ended


def in_namespace(manifest: dict[str, Any], namespace: str) -> dict[str, Any]:
    return {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}}


def test_a_job_completes_without_root_and_on_a_read_only_root(cluster_with_base: Cluster, namespace: str) -> None:
    code = "import os; print(os.getuid(), os.access('/', os.W_OK), open('/config/greeting').read())"
    cluster_with_base.kubectl("create", "configmap", "greeting", "--from-literal=greeting=hello", "-n", namespace)
    job = build_job("greet", code, volumeMounts=[{"name": "config", "mountPath": "/config"}])
    job["spec"]["template"]["spec"]["volumes"] = [{"name": "config", "configMap": {"name": "greeting"}}]
    cluster_with_base.apply(in_namespace(job, namespace))
    cluster_with_base.wait_for("condition=Complete", "job/greet", namespace)
    assert logs(cluster_with_base, namespace, "job/greet") == "65532 False hello\n"


def test_a_pod_that_asks_for_more_than_the_namespace_allows_is_refused(
    cluster_with_base: Cluster, namespace: str
) -> None:
    pod = build_pod("greedy", "pass", securityContext={"privileged": True})
    with pytest.raises(RuntimeError, match="violates PodSecurity"):
        cluster_with_base.apply(in_namespace(pod, namespace))


def test_a_projected_token_is_good_for_its_own_audience_only(cluster_with_base: Cluster, namespace: str) -> None:
    pod = build_pod(
        "teller", "print(open('/token/token').read())", volumeMounts=[{"name": "token", "mountPath": "/token"}]
    )
    source = {"serviceAccountToken": {"audience": "llm-operator", "path": "token", "expirationSeconds": 600}}
    pod["spec"]["volumes"] = [{"name": "token", "projected": {"sources": [source]}}]
    run_to_end(cluster_with_base, namespace, pod)
    token = logs(cluster_with_base, namespace, "teller").strip()
    assert review(cluster_with_base, token, "llm-operator")["user"]["username"] == (
        f"system:serviceaccount:{namespace}:default"
    )
    assert not review(cluster_with_base, token, "another").get("authenticated", False)


def review(cluster: Cluster, token: str, audience: str) -> dict[str, Any]:
    asked = client.V1TokenReview(spec=client.V1TokenReviewSpec(token=token, audiences=[audience]))
    with cluster.client() as api:
        answer = client.AuthenticationV1Api(api).create_token_review(asked)
        status: dict[str, Any] = api.sanitize_for_serialization(answer.status)
    return status


def test_exit_code_and_termination_message_arrive_in_the_status(cluster_with_base: Cluster, namespace: str) -> None:
    code = "import sys; open('/dev/termination-log', 'w').write('data/3: no such column'); sys.exit(42)"
    ended = run_to_end(cluster_with_base, namespace, build_pod("ends", code))
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (42, "Error", "data/3: no such column")


def test_a_container_over_its_memory_limit_is_killed_and_says_so(cluster_with_base: Cluster, namespace: str) -> None:
    limits = {"limits": {"memory": "64Mi"}}
    ended = run_to_end(cluster_with_base, namespace, build_pod("hungry", "bytearray(10**9)", resources=limits))
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")


def test_a_service_answers_by_name_from_a_pod_and_by_address_from_this_machine(
    cluster_with_base: Cluster, namespace: str
) -> None:
    server = in_namespace(build_pod("web", SERVE, readinessProbe=READY), namespace)
    cluster_with_base.apply(server, in_namespace(build_service("web", PORT), namespace))
    cluster_with_base.wait_for("condition=Ready", "pod/web", namespace)
    run_to_end(cluster_with_base, namespace, build_pod("asker", ASK))
    assert logs(cluster_with_base, namespace, "asker") == "from web\n"
    address = cluster_with_base.get("service", "web", namespace)["spec"]["clusterIP"]
    assert requests.get(f"http://{address}", timeout=10).text == "from web"
    proxied = f"/api/v1/namespaces/{namespace}/services/web:80/proxy/"
    assert cluster_with_base.kubectl("get", "--raw", proxied) == "from web"


def test_a_name_outside_the_cluster_is_refused_at_once(cluster_with_base: Cluster, namespace: str) -> None:
    code = (
        "import socket, time; start = time.monotonic()\n"
        "try: socket.gethostbyname('huggingface.co')\n"
        "except socket.gaierror: print(time.monotonic() - start)"
    )
    run_to_end(cluster_with_base, namespace, build_pod("outward", code))
    assert float(logs(cluster_with_base, namespace, "outward")) < 2


def test_exec_runs_a_command_in_a_running_pod(cluster_with_base: Cluster, namespace: str) -> None:
    cluster_with_base.apply(in_namespace(build_pod("runs", SERVE, readinessProbe=READY), namespace))
    cluster_with_base.wait_for("condition=Ready", "pod/runs", namespace)
    assert cluster_with_base.kubectl("exec", "runs", "-n", namespace, "--", "hostname") == "runs\n"


@pytest.fixture(scope="module")
def s3(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with run_s3_server(tmp_path_factory.mktemp("s3"), cluster.host_address) as server:
        server.make_bucket("models")
        yield server


def test_a_pod_reads_from_and_writes_to_s3(cluster_with_base: Cluster, namespace: str, s3: S3Server) -> None:
    (s3.folder / "models" / "given").write_text("weights")
    source, target = (
        signed_url(s3, method, key) for method, key in (("get_object", "given"), ("put_object", "stored"))
    )
    code = (
        "from urllib.request import Request, urlopen\n"
        f"data = urlopen({source!r}, timeout=10).read()\n"
        f"urlopen(Request({target!r}, data=data * 2, method='PUT'), timeout=10)"
    )
    run_to_end(cluster_with_base, namespace, build_pod("copies", code))
    assert (s3.folder / "models" / "stored").read_text() == "weightsweights"


def signed_url(s3: S3Server, method: str, key: str) -> str:
    """A URL that lets its bearer call this method on the object, without keys."""
    session = boto3.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1")
    client = session.client("s3", endpoint_url=s3.endpoint_url, config=Config(signature_version="s3v4"))
    return client.generate_presigned_url(method, {"Bucket": "models", "Key": key})
