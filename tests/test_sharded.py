"""Every engine on parameters that FSDP2 has split over two processes, against the run that nobody split."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from engines import ENGINES, Net, build, distance, run
from processes import new_process
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

# uneven rows, fewer rows than processes, stacks whose experts are split
SHAPES = {"tall": (7, 4), "wide": (4, 9), "square": (6, 6), "stack": (3, 4, 5), "single": (1, 6, 4), "vector": (5,)}
# moments large enough for 8 bits
LARGE = {"tall": (2100, 3), "wide": (3, 2100), "stack": (3, 700, 4), "vector": (5001,)}
SHAPES_OF = {"galore_adamw_8bit": LARGE, "galore_adamw_8bit_layerwise": LARGE}
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "apollo_adamw": [
        {"weight_decay": 0.1},
        {"proj": "svd"},
        {"proj_type": "reverse_std"},
        {"keep_projection": True, "update_proj_gap": 5},
        {"scale_type": "tensor", "scale_front": True},
        {"disable_nl": True},
    ],
    "galore_adamw": [
        {"weight_decay": 0.1},
        {"proj_type": "reverse_std", "update_proj_gap": 5},
        {"proj_type": "full"},
    ],
    "galore_adamw_8bit": [{"weight_decay": 0.1}],
    "galore_adafactor": [
        {"weight_decay": 0.1, "scale_parameter": True, "beta1": 0.9},
        {"proj_type": "reverse_std", "update_proj_gap": 5},
        {"proj_type": "full"},
    ],
    "lomo": [{"weight_decay": 0.1}, {"clip_grad_value": 0.5}],
    "adalomo": [{"weight_decay": 0.1}, {"clip_threshold": 0.3}],
}
CASES = [(name, given) for name in ENGINES for given in SETTINGS.get(name, [{}])]


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    processes = [new_process(train, rank, str(tmp_path)) for rank in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    failures = [line for rank in range(2) for line in (tmp_path / f"failures-{rank}").read_text().splitlines()]
    assert failures == []


def train(rank: int, folder: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    failures = []
    for name, given in CASES:
        worst = difference(name, given)
        if not worst <= 1e-5:
            failures.append(f"{name} {given}: {worst:.1e}")
    Path(folder, f"failures-{rank}").write_text("\n".join(failures))
    dist.barrier()
    dist.destroy_process_group()


def difference(name: str, given: dict[str, Any]) -> float:
    """Train 12 steps both ways and return the largest relative difference."""
    shapes = SHAPES_OF.get(name, SHAPES)
    alone, split = Net(shapes), Net(shapes)
    fully_shard(split)
    steps = range(1, 13)
    optimizer = build(name, split, lr=0.01, **given)
    worst = 0.0
    for expected, actual in zip(
        run(alone, build(name, alone, lr=0.01, **given), steps), run(split, optimizer, steps), strict=True
    ):
        assert all(isinstance(each, DTensor) for each in actual.values())
        worst = max(worst, distance({key: each.full_tensor() for key, each in actual.items()}, expected))
    return worst
