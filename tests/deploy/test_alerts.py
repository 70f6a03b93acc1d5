"""Alerts and the dashboard: each query names what /metrics has, and each alert fires and clears in time.

``promtool`` is in Debian's package ``prometheus``. Where it is missing, its tests fail in CI and are skipped
elsewhere.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from driftgraph.app.console.troubles import CODES, troubles_of
from driftgraph.app.publishing.freshness import Freshness
from driftgraph.app.training.work_counts import WorkCounts
from driftgraph.app.web.metrics import exposition
from driftgraph.model.fitting.fit_report import FitReport
from tests.app.web.troubled import BROKEN, facts
from tests.test_documents import anchors_of

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"
OPERATING = ROOT / "docs" / "operating.md"
SCRAPES_S = 5  # as deploy/prometheus/prometheus.yml does; a test holds it
PASSING = {"starting", "filling", "worker_down"}  # they end by themselves, so nobody is woken
FREE = {"relation", "reason", "instance", "job"}  # labels whose values a site has, or Prometheus gives
TO_PROMETHEUS = {"up": {"job", "instance"}}


def rules() -> list[dict[str, Any]]:
    return [
        rule
        for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    ]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return found


def alert_of(code: str) -> str:
    return "Driftgraph" + "".join(word.capitalize() for word in code.split("_"))


# --- names ---------------------------------------------------------------------------------------------


def exported() -> dict[str, dict[str, set[str]]]:
    """Sample name → label → its values, where every part of driftgraph has told something."""
    refresh = {"users": 3, "items": 2, "waiting": 0, "freshness": Freshness().facts(), "trouble": None}
    metrics = json.dumps({"model": {"recall_at_20": 0.25}})
    manifest = {"metrics": metrics, "model_version": "3", "published_ms": "5"}
    work = WorkCounts()
    work.fitted(FitReport(1, True, "", "", 9, 1, 0.5, 9, 0, 0, {}), 2_000)
    gpu = {"allocated": 1, "reserved": 2, "total": 3}
    told = facts(
        worker={"refresh": refresh, "work": work.facts(), "gpu": gpu},
        manifest=manifest,
        disk_free_bytes=10**9,
    )
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(exposition(told, "0").decode()):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return found


def queries() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


SELECTOR = re.compile(r"\b(driftgraph_\w+|up)\b(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')


@pytest.mark.parametrize(("name", "query"), list(queries()))
def test_a_query_names_what_is_exported(name: str, query: str) -> None:
    known = exported()
    selectors = SELECTOR.findall(query)
    assert selectors, query
    labels_here = set[str]()
    for metric, inside in selectors:
        labels = known.get(metric, {})
        assert metric in known or metric in TO_PROMETHEUS, f"{name}: {metric} is not exported"
        labels_here |= labels.keys() | TO_PROMETHEUS.get(metric, set()) | {"job", "instance"}
        for label, operator, value in MATCHER.findall(inside):
            assert label in labels or label in ("instance", "job"), f"{name}: {metric} has no label {label}"
            if operator == "=" and label not in FREE:
                assert value in labels[label], f"{name}: {metric} has no {label}={value}"
    for group in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", query):
        assert {one.strip() for one in group.split(",")} <= labels_here, f"{name}: {group}"


def test_every_exported_name_is_in_the_exposition_that_queries_are_held_to() -> None:
    """Else a query of a metric that only a part tells would be refused, or a name that is gone accepted."""
    golden = (ROOT / "tests" / "golden" / "metrics.txt").read_text(encoding="utf-8").split()[::2]
    known = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exported()}
    assert set(golden) - known == {"driftgraph_servable_seconds"} - known


def test_legends_and_annotations_name_labels_that_are_there() -> None:
    labels = {label for found in exported().values() for label in found} | {"instance", "job"}
    texts = [str(rule["annotations"]) for rule in rules()] + [
        target["legendFormat"] for panel in panels() for target in panel.get("targets", [])
    ]
    named = {one for text in texts for one in re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", text)}
    assert named - labels == set()


# --- what an alert says ------------------------------------------------------------------------------------


def test_each_trouble_has_an_alert_and_none_is_of_a_trouble_that_is_not() -> None:
    codes = [match[1] for rule in rules() if (match := re.search(r'code="(\w+)"', rule["expr"]))]
    assert sorted(codes) == sorted(CODES)
    by_name = {rule["alert"]: rule for rule in rules()}
    assert len(by_name) == len(rules())
    for code in CODES:
        assert f'code="{code}"' in by_name[alert_of(code)]["expr"]


@pytest.mark.parametrize("code", CODES)
def test_an_alert_wakes_somebody_only_for_what_keeps_from_serving(code: str) -> None:
    [found] = troubles_of(facts(**BROKEN[code]))
    [rule] = [one for one in rules() if one["alert"] == alert_of(code)]
    wakes = found.keeps_from_serving and code not in PASSING
    assert rule["labels"]["severity"] == ("critical" if wakes else "warning")


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do_and_where_more_stands(rule: Mapping[str, Any]) -> None:
    said = rule["annotations"]
    assert said["summary"]
    assert said["description"].endswith(".")
    page, _, anchor = said["runbook_url"].partition("#")
    assert ROOT / page == OPERATING
    assert anchor in anchors_of(OPERATING)


def test_every_trouble_has_a_heading_in_the_operating_guide() -> None:
    assert set(CODES) <= anchors_of(OPERATING)


# --- when it fires ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None and os.environ.get("CI"):
        pytest.fail("there is no promtool: install Debian's package prometheus")
    if found is None:
        pytest.skip("there is no promtool: Debian's package prometheus has it")
    return found


def test_prometheus_takes_the_configuration_and_the_rules(promtool: str, tmp_path: Path) -> None:
    for name in ("prometheus.yml", "alerts.yml"):
        text = (ALERTS.parent / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("/etc/prometheus", str(tmp_path)), encoding="utf-8")
    done = subprocess.run(
        [promtool, "check", "config", "--lint-fatal", str(tmp_path / "prometheus.yml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules())} rules found" in done.stdout
    own = yaml.safe_load((ALERTS.parent / "prometheus.yml").read_text(encoding="utf-8"))["global"]
    assert own == {"scrape_interval": f"{SCRAPES_S}s", "evaluation_interval": f"{SCRAPES_S}s"}


# Values at each scrape, and the seconds at which the alert does not fire, and at which it does. In promtool's
# notation a+bxn is a, a+b, … n times more.
COURSES: dict[str, tuple[dict[str, str], list[int], list[int]]] = {
    **{
        alert_of(code): ({f'driftgraph_trouble{{code="{code}"}}': "0x2 1x3 0x3"}, [10, 35, 45], [15, 25])
        for code in CODES
    },
    "DriftgraphDown": ({'up{job="driftgraph"}': "1x2 0x3 1x3"}, [10, 35], [15, 25]),
    "DriftgraphStale": (
        {
            'driftgraph_servable_seconds_bucket{origin="received",le="1"}': "0+1x240",
            'driftgraph_servable_seconds_bucket{origin="received",le="10"}': "0+1x120 120+9x119",
            'driftgraph_servable_seconds_bucket{origin="received",le="+Inf"}': "0+1x120 120+9x119",
        },
        [600],
        [1_190],
    ),
    "DriftgraphBehind": (
        {"driftgraph_lag_messages": "0x120 0+900x240", "driftgraph_watermark_lag_seconds": "2x120 400x240"},
        [600, 1_000],
        [1_700],
    ),
    "DriftgraphRejecting": (
        {
            "driftgraph_events_consumed_total": "0+50x240",
            'driftgraph_events_total{outcome="rejected"}': "0x120 0+10x120",
        },
        [600],
        [1_190],
    ),
    "DriftgraphTruncating": (
        {'driftgraph_window_truncated_total{relation="click"}': "0x10 7x10 7x800"},
        [50, 4_000],
        [60, 100],
    ),
    "DriftgraphDiskFilling": ({"driftgraph_disk_free_bytes": "19e9x400 19e9-2e6x2000"}, [2_000], [10_000]),
}


@pytest.mark.parametrize("name", [rule["alert"] for rule in rules()])
def test_an_alert_fires_within_ten_seconds_and_clears(promtool: str, tmp_path: Path, name: str) -> None:
    """A trouble begins and ends at a scrape; the rules are looked at as often."""
    series, quiet, firing = COURSES[name]
    [rule] = [one for one in rules() if one["alert"] == name]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "one", "rules": [rule]}]}))
    labels = {**rule["labels"], **_kept_labels(rule["expr"], series)}
    said = {key: text.replace("{{ $labels.relation }}", "click") for key, text in rule["annotations"].items()}
    told = [{"exp_labels": labels, "exp_annotations": said}]
    cases = [
        {"eval_time": f"{at_s}s", "alertname": name, "exp_alerts": told if at_s in firing else []}
        for at_s in sorted([*quiet, *firing])
    ]
    inputs = [{"series": one, "values": values} for one, values in series.items()]
    test = {"interval": f"{SCRAPES_S}s", "input_series": inputs, "alert_rule_test": cases}
    whole = {"rule_files": ["rules.yml"], "evaluation_interval": f"{SCRAPES_S}s", "tests": [test]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(whole), encoding="utf-8")
    done = subprocess.run(
        [promtool, "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _kept_labels(expr: str, series: Mapping[str, str]) -> dict[str, str]:
    """The labels that an alert has of its series; an aggregation leaves them out."""
    if "sum by" in expr:
        return {}
    return {label: value for label, _, value in MATCHER.findall(list(series)[-1])}


def test_nothing_else_is_tested_than_what_is_there() -> None:
    assert set(COURSES) == {rule["alert"] for rule in rules()}
