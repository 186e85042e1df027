"""The page of a plan: what stands in it, and how a real browser shows it at any width, light and dark."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import browser
from processes import new_python, printed
from transformers import get_scheduler

from anyoptim.errors import OptimError
from anyoptim.integrations.models import meta_model
from anyoptim.integrations.schedules import schedule_of
from anyoptim.planning.curves import curves_of
from anyoptim.planning.plan import Plan, plan
from anyoptim.planning.strip import Strip, strip_of


def planned(name: str, model: str = "tiny-llama", **args: Any) -> Plan:
    return plan(name, meta_model(model, "float32"), args)


def rows(strip: Strip) -> dict[str, list[tuple[int, int]]]:
    return {row.label: [(cell.first, cell.last) for cell in row.cells] for row in strip.rows}


def test_a_strip_has_a_row_for_each_kind_and_a_column_for_each_layer() -> None:
    strip = strip_of(planned("muon", optim_args="fallback_lr=0.0003", learning_rate=0.02))
    assert strip.columns == 6 and strip.layers == 4
    assert rows(strip) == {
        "embedding": [(0, 0)],
        "self_attn, hidden matrix": [(1, 4)],
        "mlp, hidden matrix": [(1, 4)],
        "norm": [(1, 4), (5, 5)],
        "output head": [(5, 5)],
    }
    by_label = {row.label: row for row in strip.rows}
    assert (by_label["norm"].optimizer, by_label["norm"].rates, by_label["norm"].decay) == ("adamw_torch", [0.0003], 0)
    attention = by_label["self_attn, hidden matrix"]
    assert (attention.optimizer, attention.rates, attention.decay) == ("muon", [0.02], 0.1)
    assert attention.cells[0].parameters[0].names == "model.layers.{0..3}.self_attn.q_proj.weight"
    assert attention.cells[0].parameters[0].treatment.rule == "hidden-matrices"


@pytest.mark.parametrize("name", ["adamw_torch", "muon", "schedule_free_adamw"])
@pytest.mark.parametrize("model", ["tiny-llama", "gpt2", "t5", "vit"])
def test_every_parameter_stands_in_one_cell(name: str, model: str) -> None:
    found = planned(name, model)
    assert found.routing is not None
    cells = [cell for row in strip_of(found).rows for cell in row.cells]
    assert sum(cell.elements for cell in cells) == sum(each.place.numel for each in found.routing.routes)
    assert sum(alike.count for cell in cells for alike in cell.parameters) == len(found.routing.routes)


def test_what_only_some_layers_have_leaves_the_others_empty() -> None:
    # the first layers of the encoder and of the decoder hold the relative positions for all
    assert rows(strip_of(planned("muon", "t5")))["layer.SelfAttention, embedding"] == [(1, 1), (7, 7)]


def test_layers_with_rates_of_their_own_are_cells_of_their_own() -> None:
    strip = strip_of(planned("adamw_torch", optim_args="layer_decay=0.5", learning_rate=0.16))
    (attention,) = (row for row in strip.rows if row.label.startswith("self_attn"))
    assert [cell.first for cell in attention.cells] == [1, 2, 3, 4]
    assert attention.rates == pytest.approx([0.01, 0.02, 0.04, 0.08])


def test_curves_are_the_rates_that_a_trainer_would_set() -> None:
    found = planned("muon", lr_scheduler_type="cosine", warmup_steps=0.1, max_steps=50, learning_rate=0.02)
    dummy = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
    scheduler = get_scheduler("cosine", dummy, 5, 50)
    applied = []
    for _ in range(50):
        applied.append(dummy.param_groups[0]["lr"])
        dummy.step()
        scheduler.step()
    schedule = schedule_of(found)
    (muon,) = (each for each in curves_of(found, schedule) if each.optimizer == "muon")
    assert (schedule.warmup, schedule.steps) == (5, 50)
    assert [step for step, _ in muon.factors] == [*range(50)]
    assert [0.02 * factor for _, factor in muon.factors] == pytest.approx(applied)


def test_a_schedule_free_optimizer_warms_up_by_itself() -> None:
    found = planned("schedule_free_adamw", warmup_steps=10, max_steps=40)
    schedule = schedule_of(found)
    (curves,) = curves_of(found, schedule)
    assert (schedule.name, schedule.warmup, curves.own_warmup) == ("constant", 0, 10)
    assert dict(curves.factors)[0] == 0.1 and dict(curves.factors)[9] == dict(curves.factors)[39] == 1.0
    # a share of steps that nobody has said
    (curves,) = curves_of(shared := planned("schedule_free_adamw", warmup_steps=0.1), schedule_of(shared))
    assert curves.own_warmup == 100


@pytest.mark.parametrize("name", ["reduce_lr_on_plateau", "cosine_with_min_lr"])
def test_a_schedule_that_cannot_be_drawn_says_why(name: str) -> None:
    schedule = schedule_of(planned("sgd", lr_scheduler_type=name))
    assert schedule.factors == () and "cannot be drawn" in schedule.note


def test_without_a_model_there_is_no_page() -> None:
    with pytest.raises(OptimError, match="without a model"):
        plan("sgd", None).to_html()


CASES = {
    "adamw_torch": ["adamw_torch", "--model", "tiny-llama"],
    "muon": [
        *("muon", "--model", "llama-7b", "--dtype", "bf16", "--memory", "24GiB", "--schedule", "cosine"),
        *("--warmup", "0.03", "--steps", "10000"),
    ],
    "apollo_adamw": [
        *("apollo_adamw", "--model", "llama-70b", "--optim-args", "layer_decay=0.9,master_weights=24bit"),
        *("--dtype", "bf16", "--memory", "80GB"),
    ],
}


@pytest.mark.parametrize(
    "name", [each if each == "muon" else pytest.param(each, marks=pytest.mark.slow) for each in CASES]
)
def test_pages_in_a_browser(name: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.html"
    words = ["plan", *CASES[name], "--html", str(path)]
    text = printed(*words)
    assert "██ weights" in text and str(path) not in text
    page = path.read_text()
    assert len(page) < 300_000
    assert not re.search(r"<script|https?://", page)
    with browser(width=390, height=800) as looked:
        for width in (390, 1280):
            for scheme in ("light", "dark"):
                looked.page.set_viewport_size({"width": width, "height": 800})
                looked.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of two words
                looked.page.goto(path.as_uri())
                assert looked.page.evaluate("document.documentElement.scrollWidth") <= width
                colour = looked.page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert (colour == "rgb(255, 255, 255)") == (scheme == "light")
                fill = looked.page.evaluate("getComputedStyle(document.querySelector('.plot use')).fill")
                assert fill == "none"
        said = looked.page.inner_text("body")
        assert f"{name} on " in said and ("does not fit" in said) == ("--memory" in words)
        tip = looked.page.locator(".tip").first
        assert not tip.is_visible()
        looked.page.locator(".cell").first.hover()
        assert tip.is_visible() and "embed_tokens" in tip.inner_text()
        looked.page.mouse.move(0, 0)
        last = looked.page.locator(".cell").last
        last.focus()
        assert "lm_head" in last.locator(".tip").inner_text()
        assert looked.complaints == []
        assert {url.partition(":")[0] for url in looked.requests} <= {"file", "data"}


def test_a_page_that_cannot_be_written_and_json_beside_one(tmp_path: Path) -> None:
    words = ("plan", "sgd", "--model", "tiny-llama", "--html")
    assert "cannot be written" in printed(*words, tmp_path / "no" / "plan.html", code=1)
    assert json.loads(printed(*words, tmp_path / "plan.html", "--json"))["name"] == "sgd"
    assert "Did you mean 'cosine'" in printed(*words, tmp_path / "plan.html", "--schedule", "cosin", code=1)


def test_names_and_patterns_are_no_markup() -> None:
    hostile = planned("muon", optim_target_modules=".*mlp.*|<script>alert(1)</script>")
    page = hostile.to_html(model="<b>model</b>", command="anyoptim '<i>'")
    assert "<script" not in page and "<b>model" not in page and "<i>'" not in page


def test_a_page_without_jinja2_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import sys\nsys.modules['jinja2'] = None\n"
        f"sys.argv = ['anyoptim', 'plan', 'sgd', '--model', 'tiny-llama', '--html', {str(tmp_path / 'p.html')!r}]\n"
        "from anyoptim.cli.app import main\nmain()\n"
    )
    said = new_python(program, code=1).stderr
    assert "error: A page needs the package jinja2" in said and "pip install 'anyoptim[compare]'" in said
