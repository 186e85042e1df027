"""What ``make gpu`` runs where there is a GPU runs here on the CPU, tiny; and a captured step is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from engines import ALGORITHMS, ENGINES, FUSED, MATRICES, Net, build

import anyoptim
from anyoptim.engines.engine import Engine
from anyoptim.testing import check_optimizer
from benchmarks.gpu import capture, devices, kit, stored, suite, sync
from benchmarks.gpu.accelerator import accelerator
from benchmarks.gpu.section import TINY, Row, Section, Verdict, section
from benchmarks.gpu.trial import Gradients, Model, Trial, engines, largest_difference

ROOT = Path(__file__).parents[1]
WRAPPERS = [f"{name}(sgd)" for name in ("cautious", "lookahead", "orthograd", "sam", "schedule_free")]
SIZES = replace(TINY, checks=("builds", "device", "memory"))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Section], Path]:
    folder = tmp_path_factory.mktemp("results")
    torch.compiler.set_stance("force_eager")  # torchao compiles its steps: half a minute
    try:
        return {each.title: each for each in suite.measure("cpu", SIZES, folder)}, folder
    finally:
        torch.compiler.set_stance("default")


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)


# ---------------------------------------------------------------- the report


def test_every_section_finds_a_verdict_on_every_engine(measured: tuple[dict[str, Section], Path]) -> None:
    sections, _ = measured
    assert list(sections) == [
        "no waiting",
        "several devices",
        "peak memory",
        "step times",
        "packed state",
        "CUDA graphs",
        "conformance kit",
    ]
    for each in sections.values():
        assert {row.verdict for row in each.rows} <= set(get_args(Verdict))
        assert not [row for row in each.rows if row.verdict in ("fail", "not run")]
    assert not suite.failed(list(sections.values()))
    for title in ("no waiting", "several devices", "peak memory", "CUDA graphs", "step times"):
        assert {row.name for row in sections[title].rows} >= {*ENGINES, *WRAPPERS}
    refused = {row.name for row in sections["CUDA graphs"].rows if row.verdict == "pass"}
    assert refused == {*ENGINES, "lookahead(sgd)", "schedule_free(sgd)"}
    assert all(row.numbers["peak / predicted"] == 1.0 for row in sections["peak memory"].rows)
    for row in sections["step times"].rows:
        assert row.numbers["ms"] > 0 and row.numbers["of the floor"] > 0
        assert ("/ upstream" in row.numbers) == row.evidence.startswith("upstream is")
    assert "/ upstream" in next(row for row in sections["step times"].rows if row.name == "grokadamw").numbers
    packed = {row.name: row for row in sections["packed state"].rows}
    assert {name for name, row in packed.items() if row.verdict == "pass"} == {"packing", *stored.ELSEWHERE}
    assert all(packed[name].verdict == "measured" for name in stored.OURS)
    assert set(stored.RIVALS) <= set(packed)
    held = packed["adamw_torch master_weights=24bit,state_dtype=int8"].numbers["bytes of state each"]
    assert 3.25 < held < 3.35
    assert {row.name for row in sections["conformance kit"].rows} >= set(ENGINES)
    assert all(set(row.details) == set(SIZES.checks or ()) for row in sections["conformance kit"].rows)


def test_the_report_is_a_page_and_the_same_as_json(measured: tuple[dict[str, Section], Path]) -> None:
    sections, folder = measured
    (page,), (data,) = folder.glob("gpu-*.md"), folder.glob("gpu-*.json")
    assert page.stem == data.stem
    written, text = json.loads(data.read_text()), page.read_text()
    assert written["torch"] == torch.__version__
    assert [each["title"] for each in written["sections"]] == list(sections)
    lines = text.splitlines()
    for each, kept in zip(sections.values(), written["sections"], strict=True):
        assert [row["name"] for row in kept["rows"]] == [row.name for row in each.rows]
        for row in each.rows:
            assert any(line.startswith(f"| `{row.name}` | {row.verdict} |") for line in lines)


def test_what_does_not_fit_in_the_time_is_written(tmp_path: Path) -> None:
    sections = suite.measure("cpu", replace(SIZES, deadline=time.monotonic()), tmp_path)
    rows = [row for each in sections for row in each.rows]
    assert {(row.verdict, row.evidence) for row in rows} == {("not run", "out of time")}
    assert all({row.name for row in each.rows} >= set(ENGINES) for each in sections if each.title != "packed state")
    (page,) = tmp_path.glob("*.md")
    assert page.read_text().count("**not run** | out of time") == len(rows)


def test_time_runs_out_in_the_middle_and_a_row_that_raises_hides_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    def measure(name: str) -> Row:
        if name == "slow":
            time.sleep(0.3)
        if name == "bad":
            raise ZeroDivisionError("twice\nover")
        return Row(name, "pass")

    found = section("title", "", ("bad", "good", "slow", "late"), measure, time.monotonic() + 0.2)
    assert [(row.verdict, row.evidence) for row in found.rows] == [
        ("fail", "ZeroDivisionError: twice"),
        ("pass", ""),
        ("pass", ""),
        ("not run", "out of time"),
    ]
    assert len(capsys.readouterr().err.splitlines()) == 4


def test_a_section_that_cannot_begin_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(device: str, sizes: Any) -> Section:
        raise MemoryError("none left")

    monkeypatch.setattr(suite, "SECTIONS", (broken, lambda device, sizes: Section("good", "", (Row("x", "pass"),))))
    first, second = suite.measure("cpu", SIZES, tmp_path)
    assert first.rows[0].evidence == "MemoryError: none left"
    assert second.title == "good"
    assert suite.failed([first, second]) == list(first.rows)


def test_without_transformers_the_kit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(needed_by: str) -> None:
        raise anyoptim.MissingPackageError("none")

    monkeypatch.setattr(kit, "need_transformers", missing)
    (row,) = kit.run("cpu", SIZES).rows
    assert (row.verdict, row.evidence) == ("not run", "transformers is not installed")


def test_names_of_packages_are_chosen_by_what_is_installed() -> None:
    names = kit.catalogue(30)
    assert len(names) == len(set(names)) == 30
    assert "paged_adamw_8bit" in names and "adamw_torch_4bit" in names
    packages = {anyoptim.optimizer_info(name).package for name in names}
    assert packages >= {"torch", "timm", "heavyball", "bitsandbytes", "torchao"}
    assert "anyoptim" not in packages
    assert set(engines()) >= {*ENGINES, *WRAPPERS}


def test_the_command_needs_a_device() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, "-m", "benchmarks.gpu", "--minutes", "0"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == "torch finds no CUDA device here; --device cpu --tiny tries the code without one."


# ---------------------------------------------------------------- what is broken is found


class Reads(Engine):
    """Skips zeros: by a value that it has to wait for."""

    def __init__(self, params: Any, lr: float = 0.1, often: bool = True) -> None:
        super().__init__(params, {"lr": lr, "often": often})

    def update_group(self, group: dict[str, Any], parameters: list[torch.Tensor]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if (group["often"] or not state) and parameter.grad.abs().sum() == 0:
                continue
            state["seen"] = True
            parameter.sub_(parameter.grad, alpha=group["lr"])


class ReadsOnce(Reads):
    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, lr, often=False)


@pytest.mark.usefixtures("restored_registry")
def test_a_step_that_reads_a_value_is_found() -> None:
    anyoptim.register("reads")(Reads)
    row = sync.row("reads", "cpu", SIZES)
    assert row.verdict == "fail"
    assert "reads a tensor's values" in row.evidence


@pytest.mark.usefixtures("restored_registry")
def test_what_only_the_first_step_reads_is_told() -> None:
    anyoptim.register("reads_once")(ReadsOnce)
    row = sync.row("reads_once", "cpu", SIZES)
    assert row.verdict == "pass"
    assert "the first one waits" in row.evidence


@pytest.mark.parametrize(("wrong", "verdict"), [(0.0, "pass"), (1e-7, "pass"), (1.0, "fail"), (float("nan"), "fail")])
def test_weights_that_differ_between_devices_are_found(
    wrong: float, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = devices.stepped, []

    def stepped(name: str, places: tuple[str, str], sizes: Any) -> Any:
        halves = whole(name, places, sizes)
        with torch.no_grad():
            halves[1].lm_head.weight[0, 0] += wrong * len(calls)
        calls.append(places)
        return halves

    monkeypatch.setattr(devices, "stepped", stepped)
    assert devices.row("lomo", "cpu", SIZES).verdict == verdict
    assert len(calls) == 3


def test_a_graph_that_freezes_a_step_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    here = accelerator("cpu")
    monkeypatch.setattr(capture, "accelerator", lambda _: here)
    monkeypatch.setattr(here, "captured", lambda step: step, raising=False)
    assert capture.row("adamw_torch", "cpu", SIZES).evidence == "works: bit-equal after 3 replays"
    monkeypatch.setattr(here, "captured", lambda step: lambda: None, raising=False)
    row = capture.row("adamw_torch", "cpu", SIZES)
    assert row.verdict == "fail"
    assert row.evidence.startswith("silently different")


def test_a_refusal_is_told_when_the_capture_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA: an error that leaves a capture open is followed by one of its own."""
    told = []

    @contextmanager
    def graph(_: Any) -> Iterator[None]:
        yield
        told.append("ended")

    class Graph:
        def replay(self) -> None:
            told.append("replayed")

    def refuse() -> None:
        raise anyoptim.UnsupportedError("no")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    here = accelerator("cuda")
    with pytest.raises(anyoptim.UnsupportedError, match="no"):
        here.captured(refuse)
    assert told == ["ended"]
    replay = here.captured(lambda: None)
    assert replay is not None
    replay()
    assert told == ["ended", "ended", "replayed"]


def test_gradients_are_the_same_ones_each_time() -> None:
    model = Model(8, 1, 8)
    trial = Trial("adalomo", model, gradients=Gradients(model))
    trial.gradients.give()
    kept = {parameter: parameter.grad.clone() for parameter in model.parameters()}
    trial.step()
    assert all(parameter.grad is None for parameter in model.parameters())
    trial.gradients.give()
    assert all(torch.equal(parameter.grad, kept[parameter]) for parameter in model.parameters())
    assert largest_difference(model, model) == 0.0


# ---------------------------------------------------------------- our part


@pytest.mark.usefixtures("capturing")
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_captured_step_is_refused_before_it_changes_anything(name: str) -> None:
    model = Net(MATRICES)
    optimizer = build(name, model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with pytest.raises(anyoptim.UnsupportedError, match=r"^A CUDA graph would repeat .* out of what is captured\.$"):
        optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.usefixtures("capturing")
@pytest.mark.parametrize("name", FUSED)
def test_a_captured_backward_pass_that_updates_is_refused(name: str) -> None:
    model = Net(MATRICES)
    optimizer = build(name, model, fused_backward=True)
    with pytest.raises(anyoptim.UnsupportedError, match="a backward pass that updates"):
        model(1).backward()
    assert not optimizer.state


@pytest.mark.usefixtures("capturing")
@pytest.mark.parametrize("name", ["lookahead(sgd)", "schedule_free(sgd)"])
def test_a_wrapper_that_counts_steps_is_not_captured(name: str) -> None:
    optimizer = anyoptim.get_optimizer(name, torch.nn.Linear(2, 2), lr=0.1)
    getattr(optimizer, "train", lambda: None)()
    with pytest.raises(anyoptim.UnsupportedError, match="A CUDA graph would repeat one step of"):
        optimizer.step()


def test_the_kit_refuses_a_device_that_is_not_there() -> None:
    with pytest.raises(anyoptim.OptimError, match=r"Nothing can be put on device 'nowhere' here \(.*doctor"):
        check_optimizer("sgd", checks=["builds"], device="nowhere")
    if not torch.cuda.is_available():
        with pytest.raises(anyoptim.OptimError, match="Nothing can be put on device 'cuda' here"):
            check_optimizer("sgd", checks=["builds"], device="cuda")


def test_the_kit_puts_models_and_batches_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no second device here: what is sent to it is caught on the way."""
    sent = []
    move = torch.nn.Module.to
    monkeypatch.setattr(
        torch.nn.Module, "to", lambda self, *args, **kwargs: (sent.append(args), move(self, *args, **kwargs))[1]
    )
    assert check_optimizer("sgd", checks=["device"], device="cpu:0")
    assert ("cpu:0",) in sent
