"""What a user writes, as type checkers see it from outside; each ignored line is a mistake that they have to report."""

from __future__ import annotations

import torch
from typing_extensions import assert_type

import anyoptim
from anyoptim import Hyperparameter, Implementation, OptimError, OptimizerSpec, Plan, Traits
from anyoptim.testing import Report, check_optimizer

model = torch.nn.Linear(4, 4)

optimizer = anyoptim.get_optimizer("adamw_torch", model, {"learning_rate": 1e-3}, weight_decay=0.1)
assert_type(optimizer, torch.optim.Optimizer)
anyoptim.get_optimizer("adamw_torch")  # type: ignore[call-arg]
anyoptim.get_optimizer(1, model)  # type: ignore[arg-type]

planned = anyoptim.plan("muon", model, lr=0.02)
assert_type(planned, Plan)
assert_type(planned.state_bytes, int | None)
assert_type(planned.advice, tuple[str, ...])
assert_type(planned.footprint(8, "fsdp2").total, int | None)
assert_type(planned.build(), torch.optim.Optimizer)
print(planned.state_byte)  # type: ignore[attr-defined]

assert_type(anyoptim.list_optimizers("*lion*", package="timm", installed=True), list[str])
assert_type(anyoptim.parse_optim_args("rank=4", "apollo_adamw"), dict[str, object])

info = anyoptim.optimizer_info("lion")
assert_type(info, OptimizerSpec)
assert_type(info.usual_lr, tuple[float, float] | None)
assert_type(info.traits, Traits)


@anyoptim.register("half_sgd", summary="SGD at half the rate")
class HalfSGD(torch.optim.SGD):
    """A class keeps its type under the decorator."""


assert_type(HalfSGD(model.parameters()), HalfSGD)

anyoptim.register(
    OptimizerSpec(
        name="mine",
        summary="mine",
        implementations=(
            Implementation(
                name="upstream",
                target="torch.optim:SGD",
                package="torch",
                licence="BSD-3-Clause",
                hyperparameters=(Hyperparameter("lr", float, 0.1, "learning rate"),),
            ),
        ),
    )
)

with anyoptim.enable():
    pass
anyoptim.disable()

try:
    anyoptim.optimizer_info("no_such")
except anyoptim.UnknownOptimizerError as error:
    failure: OptimError = error

report = check_optimizer("adamw_torch", checks=["builds"])
assert_type(report, Report)
assert_type(bool(report), bool)
