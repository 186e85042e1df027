"""``anyoptim translate``: the learning rate of another optimizer, measured from the one that is known."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from anyoptim.cli.compare import of_one
from anyoptim.cli.output import console, print_json, print_rich
from anyoptim.cli.parameters import AsJson, complete_model, complete_name
from anyoptim.errors import OptimError
from anyoptim.names import packages
from anyoptim.names.lookup import optimizer_info

if TYPE_CHECKING:
    from rich.console import RenderableType

    from anyoptim.comparing.translation import Translation

EXAMPLES = (
    "anyoptim translate adamw_torch lion --lr 1e-3 --steps 10 --seeds 1",
    "anyoptim translate adamw_torch muon --lr 2e-5 --weight-decay 0.1 --model config.json --steps 10 --json",
)


def translate_command(
    source: Annotated[str, typer.Argument(help="The optimizer whose rate is known.", autocompletion=complete_name)],
    target: Annotated[str, typer.Argument(help="The other one.", autocompletion=complete_name)],
    lr: Annotated[float, typer.Option(help="The known learning rate.")],
    weight_decay: Annotated[float | None, typer.Option(help="The known weight decay.")] = None,
    betas: Annotated[str | None, typer.Option(help="The known betas, such as 0.9,0.95.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="What is trained, on bytes of text: a config.json, a preset or an architecture of transformers.",
            autocompletion=complete_model,
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help="bytes, finetune, modular-addition, or module:function.")] = None,
    steps: Annotated[int, typer.Option(min=5, help="Training steps of each trial.")] = 40,
    seeds: Annotated[int, typer.Option(min=1, help="Trials of each rate, from different weights and data.")] = 2,
    optim_args: Annotated[
        list[str] | None, typer.Option(help="NAME:key=value,… for one of the two; repeat it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the learning rate at which another optimizer moves a model's weights as far."""
    for name in (source, target):
        optimizer_info(name)
    of_each = dict(of_one(text) for text in optim_args or ())
    numbers = _betas(betas)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from anyoptim.comparing.progress import shown_on

    show = shown_on(console(sys.stderr))
    with show("importing torch and transformers"):
        packages.need_transformers("anyoptim translate")
        from anyoptim.comparing.translating import translate
    found = translate(
        source,
        target,
        lr=lr,
        weight_decay=weight_decay,
        betas=numbers,
        model=model,
        task=task,
        steps=steps,
        seeds=seeds,
        optim_args=of_each,
        show=show,
    )
    if as_json:
        print_json(found.to_dict())
        return
    for part in _shown(found):
        print_rich(part)


def _betas(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        found = tuple(map(float, text.split(",")))
    except ValueError:
        found = ()
    if len(found) < 2 or not all(0 <= each < 1 for each in found):
        raise OptimError(f"--betas {text!r} is no pair of numbers from 0 to below 1; write 0.9,0.95.")
    return found


def _shown(found: Translation) -> list[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [Text(found.line, style="cyan")]
    if found.moved:
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("")
        for title in ("elements", f"{found.source}\nRMS", f"{found.target}\nRMS"):
            table.add_column(title, justify="right", no_wrap=True)
        for title in (f"{found.source}\nspectral", f"{found.target}\nspectral", "ratio", "10% to 90%"):
            table.add_column(title, justify="right", no_wrap=True)
        for each in found.moved:
            sizes = (each.source, each.target, each.source_norm, each.target_norm)
            spread = f"{each.ratio.low:.2g} to {each.ratio.high:.2g}"
            cells = ["-" if size is None else f"{size:.2g}" for size in sizes]
            table.add_row(each.role, f"{each.elements:,}", *cells, f"{each.ratio.middle:.2f}", spread)
        parts.append(table)
        parts.append(
            Text(
                "Changes over some steps, relative to the first weights; ratios of spectral norms, of vectors RMS.",
                style="dim",
            )
        )
    spread = f" (measured: {found.low:g} to {found.high:g})" if found.low != found.high else ""
    parts.append(
        Text(f"{found.source} lr {found.source_rate:g} is {found.target} lr {found.rate:g}{spread}: {found.why}.")
    )
    parts += [Text(note, style="dim") for note in found.notes]
    return parts
