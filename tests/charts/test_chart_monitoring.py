"""Alerts fire when they should, and dashboard and alerts speak only of metrics that there are."""

import ast
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from llm_operator.feed import Feed
from llm_operator.metrics import Metrics
from llm_operator.workqueue import WorkQueue
from llm_runner.report.metrics import GAUGES, RunCollector

from tests.support.charts import CHART, EVERYTHING, Manifest, Values, render, the
from tests.support.cluster.build import build_program
from tests.support.promtool import run_promtool
from tests.support.repository import ROOT

FOREIGN_GROUPS = ("monitoring.coreos.com", "cert-manager.io")
METRIC = re.compile(r"\bllm_(?:operator|run)_\w+")
SAMPLES = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "gauge": [""]}
RULE: Manifest = the(render(EVERYTHING), "PrometheusRule")
ALERTS: dict[str, Manifest] = {rule["alert"]: rule for rule in RULE["spec"]["groups"][0]["rules"]}
DASHBOARD: Manifest = json.loads((CHART / "files" / "dashboards" / "llm-operator.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = {f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]}
RATIO = 'llm_operator_run_progress_ratio{namespace="ml", name="bot", pod="bot-1"}'
RUNS = 'llm_operator_runs_total{kind="LLMFineTune", reason='


@dataclass(frozen=True)
class Case:
    """Series as promtool writes them, one value a minute, and whether the alert fires after some time."""

    alert: str
    fires: bool
    at: str
    series: dict[str, str]


CASES = [
    Case("LLMOperatorNotWorking", True, "6m", {"llm_operator_leading": "0x10"}),
    Case("LLMOperatorNotWorking", True, "6m", {"up": "0x10"}),
    Case(
        "LLMOperatorNotWorking",
        False,
        "30m",
        {'llm_operator_leading{pod="a"}': "0x40", 'llm_operator_leading{pod="b"}': "1x40"},
    ),
    Case("LLMOperatorDeaf", True, "10m", {'llm_operator_watch_age_seconds{pod="a"}': "0+60x20"}),
    Case("LLMOperatorDeaf", False, "10m", {'llm_operator_watch_age_seconds{pod="a"}': "60 0 60 0 60 0 60 0 60 0 60"}),
    Case(
        "LLMOperatorReconcileErrors",
        True,
        "40m",
        {
            'llm_operator_reconcile_errors_total{kind="LLMFineTune", error="Unavailable"}': "0+3x60",
            'llm_operator_reconcile_seconds_count{kind="LLMFineTune"}': "0+10x60",
        },
    ),
    Case(
        "LLMOperatorReconcileErrors",
        False,
        "40m",
        {
            'llm_operator_reconcile_errors_total{kind="LLMFineTune", error="Conflict"}': "0+1x60",
            'llm_operator_reconcile_seconds_count{kind="LLMFineTune"}': "0+10x60",
        },
    ),
    Case("LLMOperatorQueueLong", True, "20m", {"llm_operator_queue_depth": "900x30"}),
    Case("LLMOperatorQueueLong", False, "20m", {"llm_operator_queue_depth": "1000-100x30"}),
    Case("LLMOperatorForbidden", True, "30m", {'llm_operator_api_errors_total{verb="PATCH", code="403"}': "0+1x40"}),
    Case("LLMOperatorForbidden", False, "30m", {'llm_operator_api_errors_total{verb="PATCH", code="409"}': "0+9x40"}),
    Case("LLMOperatorAPIErrors", True, "40m", {'llm_operator_api_errors_total{verb="GET", code="none"}': "0+60x60"}),
    Case("LLMOperatorAPIErrors", False, "40m", {'llm_operator_api_errors_total{verb="GET", code="404"}': "0+60x60"}),
    Case("LLMRunsFailing", True, "60m", {f'{RUNS}"Diverged"}}': "0+1x90", f'{RUNS}"Succeeded"}}': "0x30 1x60"}),
    Case("LLMRunsFailing", False, "60m", {f'{RUNS}"Diverged"}}': "0x30 1x60", f'{RUNS}"Succeeded"}}': "0+1x90"}),
    Case("LLMRunsFailing", False, "60m", {f'{RUNS}"Diverged"}}': "0x30 1x60"}),
    Case("LLMRunStuck", True, "2h", {RATIO: "0+0.01x30 0.3x200"}),
    Case("LLMRunStuck", False, "2h", {RATIO: "0+0.005x150"}),
    Case("LLMRunStuck", False, "1h", {RATIO: "_x40 0x40"}),
    Case("LLMRunStuck", False, "3h", {RATIO: "0+0.02x50 1x200"}),
    Case("LLMResourcesWaiting", True, "7h", {'llm_operator_resources{kind="LLMFineTune", phase="Pending"}': "2x500"}),
    Case("LLMResourcesWaiting", False, "7h", {'llm_operator_resources{kind="LLMFineTune", phase="Training"}': "2x500"}),
    Case(
        "LLMInferenceDegraded", True, "20m", {'llm_operator_resources{kind="LLMInference", phase="Degraded"}': "1x40"}
    ),
    Case(
        "LLMInferenceDegraded", False, "20m", {'llm_operator_resources{kind="LLMInference", phase="Serving"}': "1x40"}
    ),
]


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": RULE["spec"]["groups"]}))
    return path


def test_prometheus_takes_the_alerts(rules: Path) -> None:
    assert f"{len(ALERTS)} rules found" in run_promtool("check", "rules", str(rules))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert} {case.fires} {case.at}")
def test_an_alert_fires_when_it_should_and_not_otherwise(rules: Path, tmp_path: Path, case: Case) -> None:
    firing = f'count(ALERTS{{alertname="{case.alert}", alertstate="firing"}}) or vector(0)'
    wanted = {"expr": firing, "eval_time": case.at, "exp_samples": [{"labels": "{}", "value": int(case.fires)}]}
    trial = {
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "promql_expr_test": [wanted],
    }
    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [rules.name], "evaluation_interval": "1m", "tests": [trial]}))
    run_promtool("test", "rules", str(path))


def test_every_alert_is_seen_to_fire_and_to_be_silent() -> None:
    assert {case.alert for case in CASES if case.fires} == set(ALERTS)
    assert {case.alert for case in CASES if not case.fires} == set(ALERTS)


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for rule in ALERTS.values():
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}


def metrics_there_are() -> set[str]:
    """Names of the samples that operator and runner give."""
    metrics = Metrics()
    metrics.watch_runs(Feed(WorkQueue(), report_pause_seconds=1.0))
    families = {(family.name, family.type) for family in metrics.registry.collect()}
    families |= {(family.name, family.type) for family in RunCollector().collect()}
    families |= {(name, "gauge") for name, *_ in GAUGES}  # left out of a collection while they are not known
    known = {name for name, _ in families}
    families |= {(name, "gauge") for name in gauges_of_the_replica() - known}
    return {name + ending for name, type_ in families for ending in SAMPLES[type_]}


def gauges_of_the_replica() -> set[str]:
    """What it adds to the metrics as it starts, read off its source: it starts only in a cluster."""
    tree = ast.parse((ROOT / "operator" / "llm_operator" / "replica.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "watch"]
    return {str(ast.literal_eval(call.args[0])) for call in calls}


def test_alerts_speak_only_of_metrics_that_there_are() -> None:
    named = {name for rule in ALERTS.values() for name in METRIC.findall(rule["expr"])}
    assert len(named) >= 6
    assert named - metrics_there_are() == set()


def test_the_dashboard_shows_all_metrics_of_the_operator_and_none_that_there_isnt() -> None:
    named = {name for expression in EXPRESSIONS.values() for name in METRIC.findall(expression)}
    there = metrics_there_are()
    assert named - there == set()
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in there if name.startswith("llm_operator_")}
    assert families - {re.sub(r"_(bucket|count|sum)$", "", name) for name in named} == set()


def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    filled = {name: fill(expression) for name, expression in EXPRESSIONS.items()}
    records = [{"record": f"panel:{place}", "expr": expression} for place, expression in enumerate(filled.values())]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": records}]}))
    run_promtool("check", "rules", str(path))


def fill(expression: str) -> str:
    """As Grafana fills in its variables."""
    filled = expression.replace("$__rate_interval", "5m").replace("$namespace", ".*")
    assert "$" not in filled
    return filled


def test_the_panels_of_the_dashboard_stand_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_every_panel_says_what_it_shows_and_takes_the_chosen_data_source() -> None:
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {source["uid"] for source in sources} == {"${datasource}"}


def test_the_dashboard_reaches_grafana_unchanged() -> None:
    config_map = the(render(EVERYTHING), "ConfigMap")
    assert json.loads(config_map["data"]["llm-operator.json"]) == DASHBOARD
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"


def check_foreign(manifests: list[Manifest]) -> subprocess.CompletedProcess[str]:
    """By the types of their own projects."""
    program = str(build_program("foreign-kinds"))
    return subprocess.run([program], input=json.dumps(manifests), capture_output=True, text=True)


@pytest.mark.parametrize(
    "values",
    [
        EVERYTHING,
        {**EVERYTHING, "watchNamespaces": ["ml"]},
        {"webhook": {"enabled": True, "certificate": {"source": "certManager"}}},
        {
            "webhook": {
                "enabled": True,
                "certificate": {"source": "certManager", "issuerRef": {"name": "ca", "kind": "ClusterIssuer"}},
            }
        },
    ],
    ids=["monitors", "monitors of one namespace", "certificate", "certificate of an issuer"],
)
def test_objects_for_other_operators_have_only_fields_that_those_know(values: Values) -> None:
    foreign = [one for one in render(values) if one["apiVersion"].startswith(FOREIGN_GROUPS)]
    assert foreign
    result = check_foreign(foreign)
    assert result.returncode == 0, result.stderr


def test_a_misspelt_field_for_another_operator_would_be_found() -> None:
    monitor: dict[str, Any] = the(render(EVERYTHING), "ServiceMonitor")
    monitor["spec"]["endpoints"][0]["intervall"] = "30s"
    assert "intervall" in check_foreign([monitor]).stderr


def test_the_monitors_select_what_there_is() -> None:
    manifests = render(EVERYTHING)
    service, monitor = the(manifests, "Service"), the(manifests, "ServiceMonitor")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
