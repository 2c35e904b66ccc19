"""Every sentence is the one of sentences.json. After a change of words: `python -m tests.unit.wording.produced`."""

import json
from pathlib import Path

from tests.unit.wording.produced import SENTENCES, produced


def test_sentences_are_those_of_the_file(tmp_path: Path) -> None:
    assert produced(tmp_path) == json.loads(SENTENCES.read_text())
