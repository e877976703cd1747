"""The files for deploying speak of options, routes and metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from openglm.cli.main import _build_parser

DEPLOY = Path(__file__).parent.parent / "deploy"


def test_the_image_starts_the_server_with_options_it_has() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    command = json.loads(re.search(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[1])  # type: ignore[index]
    assert command[0] == "openglm"
    args = _build_parser("serve").parse_args(command[1:])
    assert args.host == "0.0.0.0"
    assert re.search(r"^USER (?!root)", text, re.MULTILINE)


def test_probes_ask_routes_that_answer() -> None:
    from openglm.serve import app  # what has routes

    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")))
    assert [one["kind"] for one in documents] == ["Deployment", "Service"]
    (container,) = documents[0]["spec"]["template"]["spec"]["containers"]
    source = Path(app.__file__).read_text(encoding="utf-8")
    for probe in ("readinessProbe", "livenessProbe"):
        assert f'"{container[probe]["httpGet"]["path"]}"' in source
    assert documents[1]["spec"]["selector"] == documents[0]["spec"]["selector"]["matchLabels"]


def test_the_dashboard_shows_metrics_that_are_told() -> None:
    pytest.importorskip("prometheus_client", reason="needs prometheus-client: pip install '.[serve]'")
    from openglm.serve.metrics import Metrics

    metrics = Metrics()
    told = metrics.render()[0].decode()
    watched = (DEPLOY.parent / "src" / "openglm" / "serve" / "service.py").read_text(encoding="utf-8")
    dashboard = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    asked = {name for panel in dashboard["panels"] for target in panel["targets"]
             for name in re.findall(r"openglm_\w+", target["expr"])}  # fmt: skip
    assert len(asked) > 5
    for name in asked:
        stem = re.sub(r"_(total|bucket)$", "", name)
        assert re.search(rf"^# TYPE {stem}(_total)? ", told, re.MULTILINE) or f'"{stem}"' in watched, name
