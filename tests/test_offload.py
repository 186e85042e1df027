"""State that lies in files or on the host: the same bits, memory that is not the process's, nothing left behind."""

from __future__ import annotations

import copy
import os
import pickle
import resource
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from halves import Wide, assert_same, built, low_model, plain_state, stepped, wide
from processes import in_new_process
from test_stored_trainer import SAVED, Resumed, fields_of
from torch import Tensor, nn
from toys import arguments, train, weights

import anyoptim
from anyoptim.engines.stored import Stored
from anyoptim.testing.subject import tiny_model

NAMES = ["adamw_torch", "muon", "schedule_free_adamw", "pytorch_optimizer/lamb"]
WAYS = [
    "",
    "master_weights=24bit,state_dtype=int8",
    "state_dtype=fp32,master_weights=kahan",
    "master_weights=stochastic",
]


def joined(*args: str) -> str:
    return ",".join(filter(None, args))


def mapped(optimizer: Any) -> list[bool]:
    """Of each tensor of the state that has dimensions, whether it lies in a file."""
    tensors = [each for held in optimizer.state.values() for each in held.values() if isinstance(each, Tensor)]
    return [bool(each.untyped_storage().filename) for each in tensors if each.dim() and each.numel()]


@pytest.mark.parametrize("where", ["disk", "cpu"])
@pytest.mark.parametrize("name", NAMES)
def test_the_bits_are_the_same(name: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, and by rows and batches, where the next one is fetched while one steps."""
    for cached in (2**18, 100):
        monkeypatch.setattr("anyoptim.engines.stored_batches.CACHED", cached)
        monkeypatch.setattr("anyoptim.building.storing.BATCH_BYTES", 64 * cached)
        for args in WAYS:
            found = []
            for offload in ("", f"offload={where}"):
                model = low_model(name)
                folder = f"offload_dir={tmp_path}" if offload == "offload=disk" else ""
                optimizer = built(name, model, joined(args, offload, folder))
                stepped(model, optimizer, range(4))
                found.append({**wide(model, optimizer), **plain_state(optimizer)})
            assert_same(*found)
            assert all(mapped(optimizer)) if where == "disk" else not any(mapped(optimizer))


def test_files_have_no_name_even_while_they_are_used(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    model = Wide()
    optimizer = built("adamw_torch", model, f"offload=disk,offload_dir={folder}")
    stepped(model, optimizer, range(1, 3))
    held = [
        each for one in optimizer.state.values() for each in one.values() if isinstance(each, Tensor) and each.dim()
    ]
    names = {each.untyped_storage().filename for each in held if each.numel()}
    assert names and all(str(name).startswith(str(folder)) for name in names)
    assert folder.is_dir() and not [*folder.iterdir()]


def test_memory_is_written_in_place(tmp_path: Path) -> None:
    """A step makes no new files for what has its place already."""
    model = Wide()
    optimizer = built(
        "adamw_torch", model, f"master_weights=24bit,state_dtype=int8,offload=disk,offload_dir={tmp_path}"
    )
    stepped(model, optimizer, range(1, 10))
    before = places(optimizer)
    stepped(model, optimizer, range(10, 13))
    assert places(optimizer) == before


def places(optimizer: Any) -> set[int]:
    held = [
        each for one in optimizer.state.values() for each in one.values() if isinstance(each, Tensor) and each.dim()
    ]
    return {each.data_ptr() for each in held}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_copies_train_alike_in_memory_of_their_own(copied: Any) -> None:
    model = tiny_model(dtype=torch.bfloat16)
    optimizer = built("adamw_torch", model, "master_weights=24bit,state_dtype=int8,offload=disk")
    stepped(model, optimizer, range(3))
    other, twin = copied((model, optimizer))
    assert not places(twin) & places(optimizer)
    stepped(model, optimizer, range(3, 6))
    stepped(other, twin, range(3, 6))
    assert_same(wide(model, optimizer), wide(other, twin))
    assert all(mapped(twin)) and all(mapped(optimizer))


def test_a_state_dict_goes_into_files(tmp_path: Path) -> None:
    args = "master_weights=24bit,state_dtype=int8"
    model = Wide()
    optimizer = built("adamw_torch", model, args)
    stepped(model, optimizer, range(3))
    other = copy.deepcopy(model)
    resumed = built("adamw_torch", other, f"{args},offload=disk")
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    stepped(model, optimizer, range(3, 6))
    stepped(other, resumed, range(3, 6))
    assert_same(wide(model, optimizer), wide(other, resumed))
    assert all(mapped(resumed))


def test_on_a_machine_without_another_memory_it_is_said_once() -> None:
    if torch.accelerator.is_available():
        pytest.skip("there is another memory")
    for args, times in (("offload=cpu", 1), ("offload=disk", 0)):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model = tiny_model()
            optimizer = anyoptim.get_optimizer("adamw_torch", model, lr=1e-3, optim_args=args)
            stepped(model, optimizer, range(1, 3))
        assert len([each for each in said if "offload=cpu has no effect" in str(each.message)]) == times


# ---------------------------------------------------------------- killed


def killed_in_a_step(folder: str, fields: dict[str, Any]) -> None:
    """Train, and die as ``kill -9`` does when some parameters of a step have been written; for a process of its own."""
    torch.set_num_threads(1)
    keep, kept = Stored._keep, [0]

    def keep_or_die(self: Stored, *args: Any, **kwargs: Any) -> None:
        keep(self, *args, **kwargs)
        kept[0] += 1
        if Path(folder, f"checkpoint-{SAVED}", "trainer_state.json").exists() and kept[0] > int(fields["seed"]):
            os.kill(os.getpid(), signal.SIGKILL)

    Stored._keep = keep_or_die  # type: ignore[method-assign]  # in this process alone
    with anyoptim.enable(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(tiny_model(dtype=torch.bfloat16), arguments(Path(folder), **fields))


@pytest.mark.trainer
@pytest.mark.usefixtures("enabled")
def test_what_is_killed_in_a_step_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    args = f"master_weights=24bit,state_dtype=int8,offload=disk,offload_dir={folder}"
    fields = fields_of("adamw_torch", args)
    expected = train(tiny_model(dtype=torch.bfloat16), arguments(tmp_path / "straight", **fields))
    assert in_new_process(killed_in_a_step, str(tmp_path / "run"), {**fields, "seed": 42}) == -signal.SIGKILL
    assert not [*folder.iterdir()]
    resumed = train(tiny_model(1, torch.bfloat16), arguments(tmp_path / "run", **fields), Resumed)
    assert_same(weights(resumed.model), weights(expected.model))
    assert_same(*(anyoptim.fp32_weights(each.model, each.optimizer) for each in (resumed, expected)))


# ---------------------------------------------------------------- memory


def within(millions: int, margin: int, where: str, report: Path) -> None:
    """Train bf16 weights with 10 bytes of state each, and report; for a process of its own, whose memory is limited.

    Weights and gradients are there already. What is private and writable may grow by the margin; shared files are not.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = nn.ParameterList([nn.Parameter(torch.randn(2000, 500).bfloat16()) for _ in range(millions)])
    args = f"master_weights=32bit,state_dtype=fp32,offload={where}"
    optimizer = anyoptim.get_optimizer("adamw_torch", model, lr=1e-3, optim_args=args)
    for each in model.parameters():
        each.grad = torch.randn_like(each)
    before = [float(each.detach().float().sum()) for each in model.parameters()]
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    limit = int(status["VmData"].split()[0]) * 2**10 + margin * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        for _ in range(2):
            optimizer.step()
    except (RuntimeError, MemoryError) as error:
        report.write_text(f"{type(error).__name__}: {error}")
        return
    moved = [float(each.detach().float().sum()) for each in model.parameters()]
    assert all(one != other for one, other in zip(before, moved, strict=True))
    state = sum(each.nbytes for one in optimizer.state.values() for each in one.values() if isinstance(each, Tensor))
    report.write_text(str(state // 2**20))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="limits of memory are Linux's here")
@pytest.mark.parametrize(
    ("millions", "margin"), [(30, 100), pytest.param(215, 1024, marks=pytest.mark.slow)], ids=["small", "large"]
)
def test_state_may_be_larger_than_the_memory(millions: int, margin: int, tmp_path: Path) -> None:
    found = {}
    for where in ("disk", "none"):
        assert in_new_process(within, millions, margin, where, tmp_path / where) == 0
        found[where] = (tmp_path / where).read_text()
    assert int(found["disk"]) >= 2 * margin
    assert "memory" in found["none"]
