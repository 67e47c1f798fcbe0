"""An endpoint, judged: which phase it is in, and how its conditions stand. Pure."""

from dataclasses import dataclass

from llm_api.conditions import Reason
from llm_api.inference import InferencePhase

from llm_operator.status.deployments import DeploymentView
from llm_operator.status.finding import Finding
from llm_operator.status.verdict import Standing


@dataclass(frozen=True)
class ServingFacts:
    deployment: DeploymentView | None
    unresolved: Finding | None
    """Why there is no model; None where there is one."""
    obstacle: Finding | None
    """What stands in the way of pods."""
    was_serving: bool
    refused: Finding | None = None
    """Why not all is there that the spec asks for."""


@dataclass(frozen=True)
class ServingVerdict:
    phase: InferencePhase
    available: Standing
    ready: Standing


def judge_serving(facts: ServingFacts) -> ServingVerdict:
    deployment = facts.deployment
    if deployment is None:
        return _no_servers_yet(facts)
    if deployment.wanted == 0:
        return _down("Suspended", Finding(Reason.SUSPENDED, "scaled to no servers at all"))
    if deployment.ready == 0:
        phase: InferencePhase = "Degraded" if facts.was_serving else "Starting"
        return _down(phase, _explain_lack(facts))
    return _judge_up(facts, deployment)


def _no_servers_yet(facts: ServingFacts) -> ServingVerdict:
    if facts.unresolved is not None:
        return _down("WaitingForModel", facts.unresolved)
    found = Finding(Reason.STARTING, "servers are being started") if facts.obstacle is None else facts.obstacle
    return _down("Starting", found)


def _judge_up(facts: ServingFacts, deployment: DeploymentView) -> ServingVerdict:
    count = f"{deployment.ready} of {deployment.wanted} servers take requests"
    available = Standing("True", Reason.RUNNING, count)
    if deployment.ready < deployment.wanted:
        lack = _explain_lack(facts)
        return ServingVerdict("Degraded", available, Standing("False", lack.reason, f"{count}: {lack.message}"))
    if facts.refused is not None:
        message = f"{count}, but not as the spec asks for now: {facts.refused.message}"
        return ServingVerdict("Serving", available, Standing("False", facts.refused.reason, message))
    if not deployment.is_settled:
        lack = _explain_lack(facts)
        message = f"{count}, some of them with the model or config of before: {lack.message}"
        return ServingVerdict("Serving", available, Standing("False", lack.reason, message))
    return ServingVerdict("Serving", available, Standing("True", Reason.RUNNING, count))


def _explain_lack(facts: ServingFacts) -> Finding:
    if facts.obstacle is not None:
        return facts.obstacle
    return Finding(Reason.STARTING, "servers load the model")


def _down(phase: InferencePhase, found: Finding) -> ServingVerdict:
    standing = Standing("False", found.reason, found.message)
    return ServingVerdict(phase, standing, standing)
