"""The Python of the README and the guide is run as it stands, on a tiny model and a few examples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Subset
from toys import data, llama

import anyoptim

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = README + "".join((ROOT / "docs" / page).read_text() for page in ("targets.md", "catalogue.md"))
BLOCKS = re.findall(r"```python\n(.*?)```", PAGES, flags=re.DOTALL)


@pytest.mark.usefixtures("restored_registry")
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[2][:40])
def test_block_runs(
    block: str,
    tokenizer: Any,
    texts: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    # only what a machine without a GPU has to say
    block = block.replace('output_dir="out"', 'output_dir="out", use_cpu=True')
    examples = texts.select(range(8)) if "trl" in block else Subset(data(), range(8))
    args = {"optim_target_modules": "all-linear", "learning_rate": 1e-3}
    try:
        exec(block, {"model": llama(), "data": examples, "tokenizer": tokenizer, "args": args})
    finally:
        anyoptim.disable()


def test_every_name_is_in_the_readme() -> None:
    table = README.partition("## The names")[2].partition("##")[0]
    bare = {name for name in anyoptim.list_optimizers() if "/" not in name and not name.startswith("example_")}
    assert bare <= set(re.findall(r"`(\w+)(?:\(…\))?`", table))
