"""What a run gets to work with: nodes, accelerators, resources and the user's part of its pods.

How pods are built from this, and which fields win, is the operator's.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from llm_api.model import ApiModel, Rule
from llm_api.names import Count, LabelValue, ObjectName, QualifiedName, Quantity

Parallelism = Literal["auto", "ddp", "fsdp"]

PROTECTED_POD_FIELDS: Mapping[str, str] = {
    "hostNetwork": "pods share nothing with their node",
    "hostPID": "pods share nothing with their node",
    "hostIPC": "pods share nothing with their node",
    "hostUsers": "pods share nothing with their node",
    "serviceAccount": "use compute.serviceAccountName",
    "serviceAccountName": "use compute.serviceAccountName",
    "automountServiceAccountToken": "the runner has no rights in the cluster",
    "restartPolicy": "use run.maxRetries",
    "activeDeadlineSeconds": "use run.deadlineSeconds",
}
"""Fields of a pod that a template may not set -> why, or what to use."""


def _protected_fields(spec: Mapping[str, Any] | None) -> list[str]:
    return [] if spec is None else sorted(PROTECTED_POD_FIELDS.keys() & spec.keys())


class Accelerators(ApiModel):
    """Devices for each node of the run."""

    resource: QualifiedName = "nvidia.com/gpu"
    """Extended resource that the devices are offered as; unset: nvidia.com/gpu."""
    count: Count
    """Devices a node."""


ResourceAmounts = Annotated[dict[QualifiedName, Quantity], Field(max_length=32)]


class Resources(ApiModel):
    """Requests and limits of the runner's container, as in a pod."""

    requests: ResourceAmounts = {}
    """What a node must have free, such as cpu: "4" and memory: 32Gi."""
    limits: ResourceAmounts = {}
    """What the container may use at most."""


class TemplateMetadata(ApiModel):
    """Labels and annotations for pods."""

    labels: Annotated[dict[QualifiedName, LabelValue], Field(max_length=64)] = {}
    """Labels to add; those that the operator finds its pods by stay as they are."""
    annotations: Annotated[
        dict[QualifiedName, Annotated[str, Field(max_length=65536)]],
        Field(max_length=64),
    ] = {}
    """Annotations to add."""


class PodTemplate(ApiModel):
    """The user's part of the pods: merged into what the operator builds, which wins wherever security rests on it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="pod-template-protected",
            message="spec can't set "
            + ", ".join(sorted(PROTECTED_POD_FIELDS))
            + ": the operator does; service account, retries and deadline have keys of their own in compute and run",
            holds=lambda template: not _protected_fields(template.spec),
            path="spec",
            needs=("spec",),
        ),
    )

    metadata: TemplateMetadata = TemplateMetadata()
    """Labels and annotations to add to the pods."""
    spec: Annotated[dict[str, Any], Field(max_length=64)] = {}
    """Fields of a pod's spec, such as nodeSelector, tolerations, affinity, priorityClassName, runtimeClassName,
    imagePullSecrets or containers (merged by name). Not to be set here: host namespaces, service account and its token,
    restart policy. Not to be weakened: runAsNonRoot, the seccomp profile, dropped capabilities, the read-only root
    file system and the ban on privilege escalation are set after merging."""


class Compute(ApiModel):
    """Where and on what the pods run."""

    nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    """Pods that work together on one run, each with the accelerators and resources below."""
    accelerators: Accelerators | None = None
    """Devices for each node; unset: CPU only."""
    resources: Resources = Resources()
    """Requests and limits of the runner's container."""
    service_account_name: ObjectName | None = None
    """Service account whose cloud identity opens storage; its Kubernetes token isn't mounted."""
    pod_template: PodTemplate = PodTemplate()
    """More about the pods: node selection, tolerations, priority, labels."""


class TuningCompute(Compute):
    """Where and on what a fine-tune's pods run."""

    parallelism: Parallelism = "auto"
    """How several devices train one model. ddp: each holds all of it and takes a share of a step's rows. fsdp: weights,
    gradients and optimizer states are shared out as well. Unset: auto, which is ddp where the model fits one device."""

    @property
    def devices_per_node(self) -> int:
        """Processes of a run in one pod: one for each accelerator, or one on the CPU."""
        return 1 if self.accelerators is None else self.accelerators.count

    @property
    def devices(self) -> int:
        """Processes that train together."""
        return self.nodes * self.devices_per_node
