"""Files that other programs read: workflows, issue forms, citation, hooks. Each is valid, pinned and in step."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").iterdir())
SCHEMAS = {
    "vendor.github-workflows": WORKFLOWS,
    "custom.github-workflows-require-timeout": WORKFLOWS,
    "vendor.github-issue-forms": sorted(
        {*(GITHUB / "ISSUE_TEMPLATE").iterdir()} - {GITHUB / "ISSUE_TEMPLATE/config.yml"}
    ),
    "vendor.github-issue-config": [GITHUB / "ISSUE_TEMPLATE/config.yml"],
    "vendor.citation-file-format": [ROOT / "CITATION.cff"],
}
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.slow
@pytest.mark.parametrize("schema", SCHEMAS)
def test_valid_by_its_schema(schema: str) -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, "--default-filetype", "yaml"]
    done = subprocess.run([*check, *map(str, SCHEMAS[schema])], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_to_commits(path: Path) -> None:
    used = re.findall(r"uses: (\S+)(.*)", path.read_text())
    assert used
    for action, comment in used:
        local = action.startswith("./") and (ROOT / action).exists()
        assert local or re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action
        assert local or re.search(r"# v\d+\.\d+\.\d+$", comment), action


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_targets_and_tests_that_exist(path: Path) -> None:
    for target, rest in re.findall(r"make ([\w-]+)(.*)", path.read_text()):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target
        for test in re.findall(r"tests/[\w/.]+", rest):
            assert (ROOT / test).exists(), test


def test_every_supported_python_is_tested() -> None:
    matrix = _read(GITHUB / "workflows/test.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert matrix[0] == oldest
    assert matrix == sorted(matrix)


def test_only_the_publishing_job_may_prove_its_identity() -> None:
    for path in WORKFLOWS:
        workflow = _read(path)
        assert workflow["permissions"] == {"contents": "read"}
        extended = {name for name, job in workflow["jobs"].items() if "permissions" in job}
        assert extended == ({"publish"} if path.stem == "release" else set())


def test_hooks_are_the_steps_of_make_check() -> None:
    repositories = _read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert [each["repo"] for each in repositories] == ["local"]
    hooks = repositories[0]["hooks"]
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in hooks)
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert recipe is not None
    steps = [line.strip().lstrip("@").replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    assert [hook["entry"] for hook in hooks] == steps


def test_the_citation_has_the_version_of_the_package() -> None:
    citation = _read(ROOT / "CITATION.cff")
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found
