"""Many fine-tunes at once, on a control plane with controllers and fake nodes with GPUs: each gets its Job, once."""

import json
import time
from collections import Counter
from pathlib import Path

from tests.support.audit import AuditLog, count_writes
from tests.support.cluster.control_plane import Settings, run_control_plane
from tests.support.cluster.fake_nodes import PodCourse, run_fake_nodes
from tests.support.operator_process import run_operator, wait_until
from tests.support.world import World, build_gpu_example, install_crds

MANY = 60
USER = "llm-operator"
OUTCOME = '{"reason": "Succeeded", "lastStep": 30, "metrics": {"eval.loss": 0.5}}'
EVERY_WRITE_OF_A_RUN = {"configmaps", "jobs", "llmfinetunes/status", "events"}


def test_many_applied_at_once_get_a_job_each_and_are_left_in_peace_afterwards(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, USER)
    settings = Settings(has_controllers=True, flags={"kube-apiserver": log.flags})
    course = PodCourse(run_seconds=2, message=OUTCOME)
    with run_control_plane(tmp_path, settings) as plane, run_fake_nodes(plane, count=8, course=course):
        install_crds(plane)
        world = World(plane)
        kubeconfig = plane.save_kubeconfig("operator", USER, ["system:masters"])
        with run_operator(kubeconfig, tmp_path, resync_seconds="10") as operator:
            names = [f"tune-{number}" for number in range(MANY)]
            examples = [build_gpu_example(name, world.namespace) for name in names]
            world.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": examples}))
            done = f'llm_operator_resources{{kind="LLMFineTune",phase="Succeeded"}} {MANY}.0'
            wait_until(lambda: done in operator.get("/metrics")[1], "all succeeded")
            owners = Counter(job["metadata"]["ownerReferences"][0]["name"] for job in world.found("jobs"))
            assert owners == dict.fromkeys(names, 1)
            time.sleep(2)
            written = Counter(request.resource for request in log.count_new().elements() if request.is_write)
            assert set(written) == EVERY_WRITE_OF_A_RUN
            assert (written["configmaps"], written["jobs"]) == (MANY, MANY)
            time.sleep(12)  # a whole slow round
            requests = log.count_new()
            assert requests.total() > 0, "the slow round asks what there is"
            assert count_writes(requests) == 0
