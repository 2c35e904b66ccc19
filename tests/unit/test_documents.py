"""Documents name what exists: paths in backticks, relative links, pages of decisions, numbers in the picture."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
DECISIONS = sorted((ROOT / "docs/decisions").glob("0*.md"))
TOP_LEVEL = ("pipeline", "db", "workers", "tests", "benchmarks", "docs", "docker", r"\.github")
SHIMS = {"digits", "tuning"}  # names of version 0.1 that still work
PATH = re.compile(rf"`((?:{'|'.join(TOP_LEVEL)})/[\w./*-]*)`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_in_backticks_exist(document: Path) -> None:
    for path in PATH.findall(document.read_text()):
        assert any(ROOT.glob(re.sub(r"NAME|NNNN|COMMAND", "*", path))), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_targets_of_make_exist(document: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make ([\w-]+)", document.read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_to_files_and_headings(document: Path) -> None:
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        name, _, heading = link.partition("#")
        target = (document.parent / name) if name else document
        assert target.exists(), link
        assert not heading or heading in _anchors(target), link


@pytest.mark.parametrize("page", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_a_status_and_four_parts(page: Path) -> None:
    text = page.read_text()
    assert re.match(r"# \d{4}: .+\n\nStatus: ", text)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Measurement", "Decision", "Consequences"]


def test_every_decision_is_in_the_list() -> None:
    listed = re.findall(r"\]\((0.+?\.md)\)", (ROOT / "docs/decisions/README.md").read_text())
    assert listed == [page.name for page in DECISIONS]


def test_each_step_of_the_walk_has_its_number_in_the_picture() -> None:
    steps = re.findall(r"^(\d+)\. ", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    numbers = re.findall(r'class="number"[^>]*>(\d+)<', (ROOT / "docs/architecture.svg").read_text())
    assert steps == sorted(numbers, key=int) == [str(index + 1) for index in range(len(steps))]


def test_the_rooms_are_the_layers_of_import_linter() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract.get("containers") == ["pipeline"]]
    for name in {name for layer in layers for name in layer.split(" | ")} - SHIMS:
        path = f"pipeline/{name}/" if (ROOT / "pipeline" / name).is_dir() else f"pipeline/{name}.py"
        assert f"`{path}`" in text, path


def _anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a Markdown file."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
