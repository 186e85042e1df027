"""Names through the real Trainer in two gloo processes, against one process; one start for many of them."""

from __future__ import annotations

import contextlib
import datetime
import gc
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from math import sqrt
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import toys
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from chosen import chosen
from filelock import FileLock
from processes import in_new_process, new_process
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback, TrainingArguments

import anyoptim
from anyoptim.engines.fused_backward import FusedBackward
from anyoptim.memory.state import local_bytes, measured_state_bytes

Weights = dict[str, torch.Tensor]
Row = dict[str, Any]

STEPS, SAVED, GLOBAL_BATCH = 6, 3, 8
FULL = {"version": 2, "fsdp_version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}
ZERO: dict[str, Any] = {
    "train_micro_batch_size_per_gpu": "auto",
    "train_batch_size": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
}
MORE = {
    "fused": "fused_backward=true",
    "rates": "embed_tokens@lr_ratio=0.5,layer_decay=0.8,no_decay=[q_proj]",
    "owned": "owned=true",
}
MODES: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp": {"fsdp": True, "fsdp_config": {**FULL, "state_dict_type": "FULL_STATE_DICT"}},
    "fsdp-sharded": {"fsdp": True, "fsdp_config": {**FULL, "state_dict_type": "SHARDED_STATE_DICT"}},
    "zero2": {"deepspeed": {**ZERO, "zero_optimization": {"stage": 2}}},
    "zero3": {"deepspeed": {**ZERO, "zero_optimization": {"stage": 3}}},
}
HOW = {"ddp": "ddp", "fsdp": "fsdp2", "fsdp-sharded": "fsdp2", "zero2": "zero2", "zero3": "zero3"}
"""The modes as the plan calls them."""

WRAPPED = (
    "lookahead(adamw_torch)",
    "cautious(sgd)",
    "orthograd(adamw_torch)",
    "schedule_free(sgd)",
    "sam(adamw_torch)",
)
OWNED = ("adamw_torch,owned", "muon,owned", "normuon,owned")


def cases() -> list[str]:
    """Every name, with ``fused_backward`` those that take it and do not have it by themselves, two with other rates."""
    specs = [anyoptim.optimizer_info(name) for name in toys.NAMES]
    fused = [spec.name for spec in specs if any(each.name == "fused_backward" for each in spec.hyperparameters)]
    # where a name in _layerwise is the same thing, it is enough
    have = {name.removesuffix("_layerwise") for name in toys.NAMES if anyoptim.optimizer_info(name).fused_backward}
    more = [f"{name},fused" for name in fused if name not in have and not anyoptim.optimizer_info(name).fused_backward]
    return [*toys.NAMES, *more, "adamw_torch,rates", "muon,rates", *OWNED, *WRAPPED]


CASES = cases()
FEW = {*chosen([*toys.NAMES, *WRAPPED], others=0), "adamw_torch,fused", "muon,rates", *OWNED[:2]}
BATCHES = {
    "all": CASES,
    "few": [case for case in CASES if case in FEW],
    "rest": [case for case in CASES if case not in FEW],
}
"""What is run in one start."""


def batch_of(mode: str, case: str) -> str:
    """The batch of a case; only the few are run by `make test`, and only in two modes."""
    if mode not in ("ddp", "fsdp"):
        return "all"
    return "few" if case in FEW else "rest"


class Watch(TrainerCallback):
    """Whether parameters were sharded, and gradients gone before the step, at every step."""

    def __init__(self) -> None:
        self.sharded: list[bool] = []
        self.freed: list[bool] = []

    def on_pre_optimizer_step(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
        self.freed.append(all(each.grad is None for each in model.parameters()))

    def on_step_end(self, *_: Any, model: torch.nn.Module, optimizer: Any, **__: Any) -> None:
        held = {id(each) for group in optimizer.param_groups for each in group["params"]}
        self.sharded.append(
            all(isinstance(each, DTensor) for each in model.parameters())
            and held == {id(each) for each in model.parameters()}
        )


class Case:
    """One name in one mode: runs of the Trainer that differ in saving and resuming only.

    In fp64, where a right algorithm agrees to the last digits; DeepSpeed has fp32 only, so its rates are moderate.
    """

    def __init__(self, case: str, mode: str, folder: Path, save_steps: int = SAVED) -> None:
        self.name, _, more = case.partition(",")
        fused = more == "fused"
        self.mode = mode
        self.folder = folder / mode / case
        self.save_steps = save_steps
        self.in_fp32 = mode.startswith("zero")
        self.alone = "RANK" not in os.environ
        needs = toys.needs_of(self.name)
        if more:
            needs["optim_args"] = ",".join(filter(None, (needs["optim_args"], MORE[more])))
        spec = anyoptim.optimizer_info(self.name)
        if self.in_fp32 and spec.usual_lr:
            needs["learning_rate"] = sqrt(spec.usual_lr[0] * spec.usual_lr[1])
        self.fields = {
            **needs,
            "max_grad_norm": 0.0 if fused else needs["max_grad_norm"],
            "weight_decay": 0.1,
            "optim": self.name,
            "max_steps": STEPS,
            "gradient_accumulation_steps": 2,
            "per_device_train_batch_size": GLOBAL_BATCH // (2 * int(os.environ.get("WORLD_SIZE", "1"))),
            **({} if self.alone else MODES[mode]),
        }

    def predict(self) -> Row:
        """What the plan says of the memory of each of two processes."""
        fields = {key: value for key, value in self.fields.items() if key not in MODES[self.mode]}
        try:
            planned = anyoptim.plan(self.name, toys.llama() if self.in_fp32 else toys.llama().double(), fields)
            return planned.footprint(2, HOW[self.mode]).to_dict()
        except anyoptim.UnsupportedError as error:
            return {"error": str(error)}

    def run(self, *, resume: bool | str = False) -> tuple[Trainer, Watch]:
        """Train, or go on from a checkpoint's name, or from the last one that is whole."""
        model = toys.llama() if self.in_fp32 else toys.llama().double()
        saving = {} if self.alone or self.in_fp32 else {"save_strategy": "steps", "save_steps": self.save_steps}
        args = TrainingArguments(**toys.run_arguments(self.folder, **self.fields, **saving))
        watch = Watch()
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(None))
            if not self.alone and self.mode.startswith("fsdp"):
                stack.enter_context(fsdp_on_cpu())
            trainer = Trainer(model=model, args=args, train_dataset=toys.data(), callbacks=[watch])
            trainer.train(resume_from_checkpoint=str(self.folder / resume) if isinstance(resume, str) else resume)
        return trainer, watch


@contextlib.contextmanager
def fsdp_on_cpu() -> Iterator[None]:
    """Between making TrainingArguments and the Trainer: accelerate turns MULTI_GPU into FSDP, but not MULTI_CPU."""
    PartialState().distributed_type = DistributedType.MULTI_GPU
    try:
        yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def whole_weights(trainer: Trainer) -> Weights:
    gathered = contextlib.nullcontext()
    if trainer.is_deepspeed_enabled:
        import deepspeed

        gathered = deepspeed.zero.GatheredParameters(list(trainer.model.parameters()))
    with gathered:
        return {
            name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()
            for name, value in trainer.model.named_parameters()
        }


def distance(actual: Weights, expected: Weights) -> float:
    """The largest difference, relative to the largest magnitude of its parameter."""
    assert actual.keys() == expected.keys()
    return max(float((actual[key] - expected[key]).abs().max() / expected[key].abs().max()) for key in expected)


def compare(case: Case, expected: Weights, row: Row) -> None:
    """Fill in what is found, so that a stage that fails does not hide the ones before."""
    trainer, watch = case.run()
    weights = whole_weights(trainer)
    optimizer = toys.inner(trainer.optimizer)
    row["difference"] = distance(weights, expected)
    row["sharded"] = all(watch.sharded)
    row["freed"] = all(watch.freed) if isinstance(optimizer, FusedBackward) else None
    row["memory"] = {
        "weights": sum(map(local_bytes, trainer.model.parameters())),
        "state": measured_state_bytes(optimizer.optimizer if case.in_fp32 else optimizer),
    }
    if case.in_fp32:
        row["ran"] = type(optimizer.optimizer).__name__  # inside DeepSpeed's own
        groups = optimizer.optimizer.param_groups
        row["memory"]["master_weights"] = sum(each.nbytes for group in groups for each in group["params"])
        return
    resumed, _ = case.run(resume=f"checkpoint-{SAVED}")
    row["resume"] = distance(whole_weights(resumed), weights)


def in_a_group(case: Case, expected: Weights, meeting: Path) -> Row:
    """Use a process group of its own: a rank that raises closes it, and the other raises instead of waiting.

    DeepSpeed keeps the first one, for good.
    """
    row: Row = {}
    case.folder.mkdir(parents=True, exist_ok=True)
    if not dist.is_initialized():
        dist.init_process_group(
            "gloo",
            init_method=f"file://{meeting.absolute()}",
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
            timeout=datetime.timedelta(seconds=60),
        )
    try:
        compare(case, expected, row)
    except Exception as error:  # the other rank must go on to the next name
        row["error"] = f"{type(error).__name__}: {error}"
    finally:
        if not case.in_fp32:
            dist.destroy_process_group()
    return row


def alone(file: Path, mode: str, cases: Sequence[str]) -> None:
    """Train in one process and keep the weights; for a process of its own."""
    begin()
    torch.save({case: whole_weights(Case(case, mode, file.parent).run()[0]) for case in cases}, file)


def together(rank: int, file: Path, mode: str, cases: Sequence[str], start: Path) -> None:
    """Train as one of two processes, and write what is found as it is found; for a process of its own."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    begin()
    if mode.startswith("zero"):
        import deepspeed.ops

        # else it compiles a C++ kernel for minutes; gloo does the same
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    expected: dict[str, Weights] = torch.load(file)
    for number, case in enumerate(cases):
        row = in_a_group(Case(case, mode, file.parent), expected[case], start / f"meeting-{number}")
        with (start / f"{rank}.jsonl").open("a") as rows:
            rows.write(json.dumps({case: row}) + "\n")


def begin() -> None:
    gc.freeze()  # keeps what is imported out of the full collections that accelerate asks for
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    anyoptim.enable()


def rows_of(mode: str, batch: str, folder: Path) -> list[dict[str, Row]]:
    """What each process found in a mode: one start for a batch, by whichever worker of pytest-xdist comes first."""
    cases = BATCHES[batch]
    file = folder / f"{batch}-{'fp32' if mode.startswith('zero') else 'fp64'}.pt"
    with FileLock(file.with_suffix(".lock")):
        if not file.exists():
            assert in_new_process(alone, file, mode, cases) == 0
    found = file.with_name(f"{file.stem}-{mode}.json")
    with FileLock(found.with_suffix(".lock")):
        if not found.exists():
            rows = started(mode, file, cases)
            # where the connection broke or a process died: once more, and a fault of ours is there again
            if broken := [case for case in cases if any(_broke(each[case]) for each in rows)]:
                again = started(mode, file, broken)
                for each in rows:
                    said = [(case, each[case].get("error")) for case in broken]
                    warnings.warn(f"{mode}, tried again: {said}", stacklevel=2)
                rows = [{**first, **second} for first, second in zip(rows, again, strict=True)]
            found.write_text(json.dumps(rows))
    return json.loads(found.read_text())  # type: ignore[no-any-return]  # what was written above


def started(mode: str, file: Path, cases: Sequence[str]) -> list[dict[str, Row]]:
    """Run two processes; if one dies, the rows of that case and of those after it say so."""
    start = Path(tempfile.mkdtemp(dir=file.parent))
    processes = [new_process(together, rank, file, mode, cases, start) for rank in range(2)]
    wait([each.sentinel for each in processes], timeout=1800)
    for process in processes:
        process.join(120)  # the other has nobody to talk to
        process.kill()
        process.join()
    rows: list[dict[str, Row]] = []
    for rank, process in enumerate(processes):
        path = start / f"{rank}.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        rows.append({case: row for line in lines for case, row in json.loads(line).items()})
        for case in cases[len(lines) :]:
            rows[-1][case] = {"error": f"process {rank} ended with {process.exitcode} at {cases[len(lines)]}"}
    return rows


def _broke(row: Row) -> bool:
    return not row.get("error", "UnsupportedError: ").startswith("UnsupportedError: ")
