"""The example dashboard and alert rules ask for nothing that ``/metrics`` does not tell."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"
METRIC = re.compile(r"\b(?:liverseg|process)_\w+")


def told(client: httpx.Client) -> dict[str, set[str]]:
    """The labels of every metric, by its samples' names; ``instance`` and ``job`` are Prometheus' own."""
    client.get("/v1/runs")  # so that a request has been counted
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for one in family.samples:
            found.setdefault(one.name, {"instance", "job"}).update(one.labels)
    return found


def rules() -> list[dict[str, str]]:
    (group,) = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return group["rules"]


def expressions() -> list[str]:
    panels = json.loads((FOLDER / "grafana-dashboard.json").read_text())["panels"]
    return [one["expr"] for panel in panels for one in panel["targets"]] + [one["expr"] for one in rules()]


def test_every_metric_and_label_of_the_dashboard_and_the_alerts_is_there(
    web: httpx.Client, worker_there: None, phantom: dict[str, Any]
):
    known = told(web)
    assert len(expressions()) > 30
    for expression in expressions():
        names = METRIC.findall(expression)
        assert names or expression.startswith("up{"), expression
        for name in names:
            assert name in known, expression
        labels = {word for words in re.findall(r"by \(([^)]*)\)|{(\w+)[=~]", expression) for one in words
                  for word in one.replace(" ", "").split(",") if word}  # fmt: skip
        everywhere = set().union(*(known[name] for name in names)) if names else {"job"}
        assert labels <= everywhere, expression


def test_every_metric_of_ours_is_shown_or_watched(web: httpx.Client, worker_there: None, phantom: dict[str, Any]):
    ours = {name for name in told(web) if name.startswith("liverseg_") and not name.endswith(("_created", "_sum"))}
    assert ours - set(METRIC.findall("\n".join(expressions()))) == set()


def test_every_alert_says_what_is_wrong():
    assert len({one["alert"] for one in rules()}) == len(rules()) > 10
    for one in rules():
        assert one["annotations"]["summary"].endswith(".") or "{{" in one["annotations"]["summary"], one
