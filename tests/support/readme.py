"""README.md, its code blocks, and a folder as its reader has it."""

import re
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import save_file

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", README, re.DOTALL)


def make_reader(folder: Path) -> Path:
    """Write ./images with a tree of classes, my_model.py as README shows it, and its weights; returns the folder."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog", "eel"):
        (folder / "images" / name).mkdir(parents=True)
        for index in range(4):
            pixels = random.integers(0, 256, (80, 100, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{index:04}.png")
    (source,) = [text for kind, text in BLOCKS if kind == "python" and text.startswith("# my_model.py")]
    (folder / "my_model.py").write_text(source)
    scope: dict[str, object] = {}
    exec(compile(source, "my_model.py", "exec"), scope)
    model, _ = scope["make"]()  # type: ignore[operator]
    save_file(model.state_dict(), folder / "my_weights.safetensors")
    return folder
