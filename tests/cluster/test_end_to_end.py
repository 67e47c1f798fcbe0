"""The main job, whole: Helm, kubectl apply, a real model tuned in a pod on data in a real S3, its artifact in PEFT."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.installation import MODEL_CLAIM, S3_SECRET, Installation
from tests.support.repository import ROOT
from tests.support.smollm2 import smollm2_path
from tests.support.tuning import KIND, Watched

pytestmark = pytest.mark.timeout(1800)
"""The first of them waits for images to be built."""

NAME = "support-tickets"
TICKETS = ROOT / "examples" / "data" / "support-tickets"
STEPS = 8
RUN_SECONDS = 400


def build_manifest(installation: Installation, namespace: str) -> str:
    """The example that users start from, with its data and its result in S3, and fewer steps."""
    manifest = yaml.safe_load((ROOT / "examples" / "finetune.yaml").read_text())
    spec = manifest["spec"]
    manifest["metadata"]["namespace"] = namespace
    spec["config"]["trainer"] |= {"train_steps": STEPS, "steps_per_checkpoint": 4}
    for split in ("train", "validation"):
        lines = (
            (TICKETS / f"{split}.jsonl").read_text().splitlines(keepends=True)[: STEPS * 8 if split == "train" else 8]
        )
        spec["dataset"][split] = {
            "uri": installation.put("datasets", f"tickets/{split}.jsonl", "".join(lines).encode())
        }
    spec["model"]["volume"]["claimName"] = MODEL_CLAIM
    spec["output"] = {"uri": "s3://models/tickets"}
    spec["compute"] = {"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}
    spec["credentials"] = {
        "s3": {"secretRef": {"name": S3_SECRET}, "endpointUrl": installation.s3.endpoint_url, "region": "us-east-1"}
    }
    return yaml.safe_dump(manifest)


@pytest.fixture(scope="module")
def tuned(installation: Installation) -> tuple[Watched, str]:
    """The resource after its run, and the manifest that was applied."""
    installation.add_model("SmolLM2-135M-Instruct", smollm2_path())
    namespace = installation.make_namespace()
    manifest = build_manifest(installation, namespace)
    installation.cluster.kubectl("apply", "--server-side", "-f", "-", stdin=manifest)
    watched = Watched(installation, namespace, NAME)
    watched.wait_for("Succeeded", RUN_SECONDS)
    return watched, manifest


def test_the_status_tells_machines_how_it_ended(tuned: tuple[Watched, str]) -> None:
    status = tuned[0].status
    generation = tuned[0].document["metadata"]["generation"]
    conditions = {one["type"]: (one["status"], one["observedGeneration"]) for one in status["conditions"]}
    assert conditions == {
        "SpecValid": ("True", generation),
        "Running": ("False", generation),
        "ArtifactsStored": ("True", generation),
        "Succeeded": ("True", generation),
    }
    assert status["phase"] == "Succeeded"
    assert (status["progress"]["step"], status["progress"]["of"], status["progress"]["percent"]) == (
        STEPS,
        STEPS,
        "100%",
    )
    assert [attempt["exitCode"] for attempt in status["attempts"]] == [0]


def test_the_status_says_what_came_of_it(tuned: tuple[Watched, str]) -> None:
    status = tuned[0].status
    stored = json.loads((tuned[0].artifact_folder / "metrics.json").read_text())
    assert status["metrics"]["eval.loss"] == pytest.approx(stored["eval"]["loss"])
    assert status["metrics"]["eval.loss"] < stored["eval"]["base_loss"]
    assert status["artifact"]["uri"] == "s3://models/tickets"
    assert status["artifact"]["digest"].startswith("sha256:")
    assert 1 < len(status["lossCurve"]) <= 64
    assert status["lossCurve"][-1]["loss"] < status["lossCurve"][0]["loss"]


def test_kubectl_get_shows_people_the_columns_that_the_documents_promise(
    installation: Installation, tuned: tuple[Watched, str]
) -> None:
    header, row = installation.cluster.kubectl("get", KIND, "-n", tuned[0].namespace).splitlines()
    assert header.split() == ["NAME", "PHASE", "MODEL", "PROGRESS", "LOSS", "ETA", "AGE"]
    assert row.split()[:4] == [NAME, "Succeeded", "SmolLM2-135M-Instruct", "100%"]
    assert float(row.split()[4]) > 0


def test_each_phase_is_an_event_and_told_once(tuned: tuple[Watched, str]) -> None:
    tuned[0].wait_until(lambda _: "Succeeded" in dict(tuned[0].events()), "told", 60)
    events = tuned[0].events()
    assert len(events) == len(set(events))
    said = " ".join(f"{reason} {message}" for reason, message in events)
    assert [phase for phase in ("Preparing", "Training", "Succeeded") if phase not in said] == []
    assert len(events) < 15


def test_the_metrics_count_the_run(installation: Installation, tuned: tuple[Watched, str]) -> None:
    lines = [line for line in installation.operator_metrics().splitlines() if not line.startswith("#")]
    by_phase = [line for line in lines if 'phase="Succeeded"' in line]
    assert any(float(line.rsplit(" ", 1)[1]) >= 1 for line in by_phase)
    assert any("runs_total" in line and "Succeeded" in line for line in lines)


def test_no_secret_reaches_status_events_logs_or_arguments(
    installation: Installation, tuned: tuple[Watched, str]
) -> None:
    watched, _ = tuned
    cluster, namespace = installation.cluster, watched.namespace
    seen = [cluster.kubectl("get", "pods,jobs,configmaps,events,llmft", "-n", namespace, "-o", "yaml")]
    seen += [cluster.kubectl("logs", "-n", namespace, pod["metadata"]["name"]) for pod in watched.pods()]
    assert "loss" in seen[-1]
    assert [text for text in seen if "tester-secret" in text] == []


def test_applying_the_same_manifest_again_changes_nothing(
    installation: Installation, tuned: tuple[Watched, str]
) -> None:
    """What GitOps tools ask all the time; so they need no ignored differences."""
    watched, manifest = tuned
    before = watched.document
    dry = installation.cluster.kubectl(
        "apply", "--server-side", "--dry-run=server", "-o", "json", "-f", "-", stdin=manifest
    )
    after = json.loads(dry)
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    difference = installation.cluster.run_kubectl("diff", "--server-side", "-f", "-", stdin=manifest)
    assert (difference.returncode, difference.stdout) == (0, "")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
def test_the_stored_adapter_loads_in_plain_peft_and_answers_better(tuned: tuple[Watched, str], tmp_path: Path) -> None:
    folder = tuned[0].artifact_folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(smollm2_path(), dtype=torch.float32)
    row = json.loads((TICKETS / "validation.jsonl").read_text().splitlines()[0])
    template = yaml.safe_load(tuned[1])["spec"]["config"]["prompt"]["template"]
    prompt = tokenizer(template.format(ticket=row["ticket"]))["input_ids"]
    answer = tokenizer(row["answer"], add_special_tokens=False)["input_ids"]
    ids = torch.tensor([prompt + answer])
    labels = torch.tensor([[-100] * len(prompt) + answer])
    with torch.no_grad():
        before = float(model(ids, labels=labels).loss)
        after = float(PeftModel.from_pretrained(model, folder)(ids, labels=labels).loss)
    assert after < 0.9 * before


def test_the_card_and_the_plot_lie_beside_the_weights(tuned: tuple[Watched, str]) -> None:
    names = {path.name for path in tuned[0].artifact_folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md", "metrics.json", "loss_curve.csv"} <= names
    assert [path for path in tuned[0].artifact_folder.glob("*.png") if path.read_bytes().startswith(b"\x89PNG")]


def test_the_runner_has_no_rights_in_the_cluster(installation: Installation, tuned: tuple[Watched, str]) -> None:
    (pod,) = tuned[0].pods()
    account = pod["spec"].get("serviceAccountName", "default")
    user = f"system:serviceaccount:{tuned[0].namespace}:{account}"
    answer = installation.cluster.run_kubectl("auth", "can-i", "get", "pods", "-n", tuned[0].namespace, "--as", user)
    assert answer.stdout.strip() == "no"
    tokens = [volume for volume in pod["spec"]["volumes"] if "projected" in volume]
    audiences = [part["serviceAccountToken"]["audience"] for one in tokens for part in one["projected"]["sources"]]
    assert audiences == ["llmoperator.dev/progress"]


def test_deleting_the_resource_leaves_nothing_but_the_artifact(
    installation: Installation, tuned: tuple[Watched, str]
) -> None:
    """Last in this file: it takes the others' run away."""
    watched, folder = tuned[0], tuned[0].artifact_folder
    installation.cluster.kubectl("delete", KIND, NAME, "-n", watched.namespace, "--timeout=60s")
    installation.cluster.kubectl("wait", "--for=delete", "job,pod", "--all", "-n", watched.namespace, "--timeout=90s")
    assert watched.pods() == []
    assert (folder / "adapter_model.safetensors").is_file()
