"""docker/: what compose.yaml says fits together. Its commands are run in tests/services/test_production.py."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli.app import app
from pipeline.settings import Settings

DOCKER = Path(__file__).parents[2] / "docker"
TEXT = (DOCKER / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if str(service["image"]).startswith("attribatch:")]


@pytest.mark.slow
def test_it_is_valid_by_the_compose_specification() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, str(DOCKER / "compose.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_part_is_there() -> None:
    assert set(OURS) == {"migrate", "worker", "worker-gpu", "web", "beat"}
    assert set(SERVICES) - set(OURS) == {"redis", "postgres", "s3", "flower", "prometheus"}
    profiles = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
    assert profiles == {"worker-gpu": ["gpu"], "flower": ["monitoring"], "prometheus": ["monitoring"]}


@pytest.mark.parametrize("name", SERVICES)
def test_dependencies_exist_and_say_what_they_wait_for(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        condition = how["condition"]
        assert condition in ("service_healthy", "service_completed_successfully")
        if condition == "service_healthy":
            assert SERVICES[other]["healthcheck"]["test"]
        else:
            assert SERVICES[other]["restart"] == "no"


def test_what_lasts_is_in_named_volumes() -> None:
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())}
    assert {volume for volume in used if re.fullmatch(r"\w+", volume)} == set(COMPOSE["volumes"])
    for path in used:
        if path.startswith("./") and "{" not in path:
            assert (DOCKER / path).exists(), path


@pytest.mark.parametrize("name", OURS)
def test_our_services_run_commands_with_known_settings(name: str) -> None:
    """Services of ours run commands that exist with settings that are read."""
    commands = {command.callback.__name__ for command in app.registered_commands if command.callback is not None}
    assert SERVICES[name]["command"][0] in commands
    known = {f"ATTRIBATCH_{field.name.upper()}" for field in fields(Settings)}
    for variable in SERVICES[name]["environment"]:
        assert variable.startswith("AWS_") or variable in known, variable


def test_no_password_is_written_down() -> None:
    secret = re.compile(r"^ *\w*(?:PASSWORD|SECRET\w*|ACCESS_KEY\w*|AUTH): *(\S+)|//\w*:(.+?)@", re.MULTILINE)
    found = [value for pair in secret.findall(re.sub(r"#.*", "", TEXT)) for value in pair if value]
    assert len(found) >= 8
    for value in found:
        assert re.fullmatch(r"\$\{\w+:\?\}", value), value


def test_targets_of_the_dockerfile_are_those_that_compose_builds() -> None:
    stages = re.findall(r"^FROM .* AS (\S+)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    assert {SERVICES[name]["build"]["target"] for name in OURS} == {"cpu", "cuda"} <= set(stages)
    copied = re.findall(r"^COPY ([^-].*) \./", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    for path in " ".join(copied).split():
        assert (DOCKER.parent / path).exists(), path
    ignored = (DOCKER.parent / ".dockerignore").read_text().splitlines()
    assert {f"!{path}" for path in " ".join(copied).split()} <= set(ignored)


def test_prometheus_finds_the_ports_that_workers_serve() -> None:
    config = yaml.safe_load((DOCKER / "prometheus.yaml").read_text())
    (job,) = config["scrape_configs"]
    port = int(SERVICES["worker"]["command"][-1])
    assert {part["port"] for part in job["dns_sd_configs"]} >= {port}
    assert {name for part in job["dns_sd_configs"] for name in part["names"]} <= set(SERVICES)
