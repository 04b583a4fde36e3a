"""The notebooks of docs/notebooks: their cells run in order, and no output is stored."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.fake_runs import write_fake_tree

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"


def cells(name: str) -> list[dict]:
    content = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    return content["cells"]


def run(name: str) -> dict:
    """Run the code cells of a notebook in one namespace, and return it."""
    found: dict = {}
    for number, cell in enumerate(cells(name)):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}, cell {number}", "exec"), found)
    return found


def test_notebooks_store_no_outputs_and_explain_each_code_cell() -> None:
    names = [path.name for path in NOTEBOOKS.glob("*.ipynb")]
    assert names == ["first_answer.ipynb"]
    kinds = [cell["cell_type"] for cell in cells(names[0])]
    assert kinds == ["markdown", "code"] * (len(kinds) // 2) + ["markdown"]
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells(names[0]))


@pytest.mark.parametrize("above", [False, True], ids=["GFL_LAB_HOME", "runs above the notebook"])
def test_first_answer_draws_every_mode_of_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: bool) -> None:
    """With the runs of the README's first command: experiment table3_qfl_dfl, profile desk."""
    tree = write_fake_tree(tmp_path / "runs", seeds=(0, 1), epochs=2)
    below = tmp_path / "docs" / "notebooks"
    below.mkdir(parents=True)
    monkeypatch.chdir(below if above else os.sep)
    if above:
        monkeypatch.delenv("GFL_LAB_HOME", raising=False)
    else:
        monkeypatch.setenv("GFL_LAB_HOME", str(tree.root))
    found = run("first_answer.ipynb")
    assert found["lab"].root == tree.root and found["variant"].name == "qfl=on dfl=on"
    assert [answer["variant"] for answer in found["answers"]] == ["qfl=on dfl=off", "qfl=off dfl=on", "qfl=on dfl=on"]
    assert all(answer["low"] < answer["AP difference"] < answer["high"] for answer in found["answers"])
    image, *lines = found["figure"].data
    shown = found["shown"]
    assert image.type == "image" and len(lines) == len(shown) and (shown["mode"] == 2).any()
    for line, mode in zip(lines, shown.itertuples(), strict=True):
        across = line.x if mode.side in ("left", "right") else line.y
        assert tuple(across) == (mode.place_px, mode.place_px) and mode.side in line.name
