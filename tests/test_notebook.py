"""A study in a notebook: progress as lines, the answer as the cell's value."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient


@pytest.mark.slow
def test_a_notebook_shows_progress_and_the_answer(
    tiny_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    rows = str(rows_file)
    code = f"""
import rung
result = rung.tune(
    model={str(tiny_folder)!r}, data={rows!r}, validation={rows!r}, test={rows!r},
    quantization="fp32", ranks=(2, 4), learning_rates=(4e-3, 1.6e-2), targets="attention",
    alphas="2r", studies={str(tmp_path)!r}, allow_leakage=True,
)
result
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = notebook.cells[0].outputs
    (answer,) = [output for output in outputs if output.output_type == "execute_result"]
    assert "Use rank" in re.sub(r"\x1b\[[\d;]*m", "", answer["data"]["text/plain"])
    assert "text/html" in answer["data"]
    progress = "".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for output in outputs
        if output is not answer
    )
    assert "the untuned model's validation loss is" in progress
    assert "Rank 2 → 4" in progress
    assert len(outputs) < 40, "a notebook is not flooded"
