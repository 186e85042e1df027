"""``monitor=true``: the same weights to the bit, the numbers of a count by hand, nothing read and nothing when off."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from chosen import SPECS, chosen, parameters
from halves import built
from monitored import monitored
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from toys import llama, plain_steps, same_weights, weights

import anyoptim
from anyoptim.building.monitored import monitor_of
from anyoptim.engines.monitor import Monitor
from anyoptim.engines.samples import SIZE, sample
from anyoptim.errors import MissingPackageError, OptimError, UnsupportedError
from anyoptim.testing.subject import Subject, batch

AROUND = ["lookahead(lion)", "sam(adamw_torch)", "schedule_free(sgd)", "lookahead(muon+lion)", "cautious(adamw_torch)"]
ROLES = {"embed_tokens": "embedding", "lm_head": "output_head", "norm": "norm", "proj": "hidden_matrix"}
FUSED = ["adamw_torch", "muon", "adalomo", "lion_pytorch/lion"]


def role_of(name: str) -> str:
    return next(role for part, role in ROLES.items() if part in name)


def by_hand(before: dict[str, Tensor], after: dict[str, Tensor], role: str = "") -> tuple[float, float]:
    """The RMS of updates, and in units of the weights'."""
    names = [name for name in before if not role or role_of(name) == role]
    moved = torch.cat([(after[name].double() - before[name].double()).flatten() for name in names])
    held = torch.cat([before[name].double().flatten() for name in names])
    return float(moved.square().mean().sqrt()), float(moved.norm() / held.norm())


# ---------------------------------------------------------------- every name


@pytest.mark.parametrize("name", [*AROUND, *parameters(SPECS, chosen(list(SPECS), others=0))])
def test_weights_are_the_same_and_numbers_those_of_a_count_by_hand(name: str) -> None:
    subject = Subject(name)
    own = subject.arguments["optim_args"]
    runs: list[dict[str, Tensor]] = []
    for more in ("monitor=true", ""):
        torch.manual_seed(0)  # some draw
        model = subject.model()
        try:
            optimizer: Any = subject.build(model, optim_args=",".join(filter(None, [own, more])) or None)
        except (MissingPackageError, UnsupportedError) as error:
            pytest.skip(str(error))
        if more:
            monitor: Any = optimizer.monitor
            monitor.every = 3
        for seed in range(3):
            before = weights(model)
            tokens = batch(seed)
            if more and seed == 2:
                loss = model(input_ids=tokens, labels=tokens).loss
                norm = torch.stack([each.norm() for each in torch.autograd.grad(loss, list(model.parameters()))]).norm()
            subject.step(model, optimizer, seed)
        runs.append(weights(model))
    assert same_weights(*runs)
    reading = monitor.reading()
    assert reading.step == 3
    for role in set(ROLES.values()):
        rms, relative = by_hand(before, runs[0], role)
        assert reading.by_role[role].update_rms == pytest.approx(rms, rel=1e-4, abs=1e-12)
        assert reading.by_role[role].relative_update == pytest.approx(relative, rel=1e-4, abs=1e-12)
    if not subject.spec.traits.needs_closure:
        found = math.hypot(*(each.grad_norm for each in reading.by_role.values()))
        assert found == pytest.approx(float(norm), rel=1e-3)


def test_every_name_takes_it() -> None:
    """Plug-ins and class paths, too: it is in no spec."""
    for name in [*SPECS, "torch.optim:AdamW"]:
        own = "lookahead(adamw_torch)" if anyoptim.optimizer_info(name).is_wrapper else name
        assert anyoptim.parse_optim_args("monitor=true", own) == {"monitor": True}
    assert anyoptim.parse_optim_args("monitor=false,implementation=upstream", "apollo_adamw")["monitor"] is False


@pytest.mark.parametrize("name", FUSED)
def test_updates_in_the_backward_pass_are_those_of_a_step(name: str) -> None:
    readings = []
    for fused in ("false", "true"):
        model = llama()
        optimizer = monitored(name, model, f"fused_backward={fused}", lr=1e-3)
        plain_steps(model, optimizer, 3)
        readings.append(optimizer.monitor.read())
    assert readings[0] == pytest.approx(readings[1], rel=1e-6)
    assert readings[1]["monitor/grad_norm/hidden_matrix"] > 0


@pytest.mark.parametrize("fused", ["false", "true"])
def test_only_steps_count_when_gradients_accumulate(fused: str) -> None:
    model = llama()
    optimizer = monitored("adamw_torch", model, f"fused_backward={fused}", every=2, lr=1e-3)
    for seed in range(8):
        if fused == "true":
            optimizer.accumulating = seed % 2 == 0
        before = weights(model)
        model(input_ids=batch(seed), labels=batch(seed)).loss.backward()
        if seed % 2:
            optimizer.step()
            optimizer.zero_grad()
    reading = optimizer.monitor.reading()
    assert reading.step == 4
    assert reading.by_role["norm"].update_rms == pytest.approx(by_hand(before, weights(model), "norm")[0], rel=1e-5)


def test_a_group_has_the_rate_that_was_applied() -> None:
    model = llama()
    optimizer = monitored("muon", model, "fallback_lr=1e-3,embed_tokens@lr_ratio=0.5", lr=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    for _ in range(2):
        plain_steps(model, optimizer, 1)
        schedule.step()
    found = optimizer.monitor.reading().by_role
    assert {role: each.lr for role, each in found.items()} == pytest.approx(
        {"hidden_matrix": 0.01, "embedding": 0.00025, "norm": 0.0005, "output_head": 0.0005}
    )


# ---------------------------------------------------------------- sixteen bits


def vanished(args: str, name: str = "lion_pytorch/lion", lr: float = 1e-6) -> float:
    model = llama().bfloat16()
    optimizer = monitored(name, model, args, lr=lr)
    plain_steps(model, optimizer, 3)
    return float(optimizer.monitor.read()["monitor/zero_updates/hidden_matrix"])


@pytest.mark.parametrize("fused", ["", "fused_backward=true"])
def test_what_bf16_swallows_is_counted_unless_something_lies_behind(fused: str) -> None:
    assert vanished(fused) > 0.9
    for behind in ("24bit", "32bit", "kahan"):
        assert vanished(",".join(filter(None, [fused, f"master_weights={behind}"]))) < 0.01, behind


def test_updates_of_packed_weights_are_those_of_the_full_weight() -> None:
    model = llama().bfloat16()
    optimizer = monitored("adamw_torch", model, "master_weights=24bit,state_dtype=int8", lr=1e-4)
    plain_steps(model, optimizer, 2)
    before = anyoptim.fp32_weights(model, optimizer)
    plain_steps(model, optimizer, 1)
    rms, relative = by_hand(before, anyoptim.fp32_weights(model, optimizer), "hidden_matrix")
    found = optimizer.monitor.reading().by_role["hidden_matrix"]
    assert (found.update_rms, found.relative_update) == pytest.approx((rms, relative), rel=1e-4)


def test_rows_without_a_gradient_are_not_swallowed() -> None:
    model = nn.Sequential(nn.Embedding(100, 8), nn.Linear(8, 8))
    optimizer = monitored("sgd", model, lr=0.1)
    model(torch.tensor([3, 4])).square().mean().backward()
    optimizer.step()
    assert optimizer.monitor.read()["monitor/zero_updates/embedding"] == 0


# ---------------------------------------------------------------- samples


@pytest.mark.parametrize("shape", [(SIZE,), (SIZE + 1,), (300, 4096), (70_000, 64), (5, 300, 300), (1, 10**6)])
def test_a_sample_is_spread_over_all_of_a_tensor(shape: tuple[int, ...]) -> None:
    places = sample(torch.arange(math.prod(shape)).reshape(shape))
    assert len(set(places.tolist())) == len(places) >= min(math.prod(shape), SIZE) * 0.99
    assert len(places) <= SIZE
    for size, stride in zip(shape, torch.empty(shape, device="meta").stride(), strict=True):
        share = torch.histc((places // stride % size).float(), 4)
        assert share.min() > 0 if size >= 4 else True


def test_a_sample_is_near_the_whole() -> None:
    model = nn.Linear(2000, 1000)
    optimizer = monitored("adamw_torch", model, lr=1e-3)
    before = weights(model)
    model.weight.grad = torch.randn(1000, 2000, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    found = optimizer.monitor.reading()
    (row,) = found.rows  # the bias has no gradient
    moved = (model.weight - before["weight"]).double()
    assert row.sums.updates == pytest.approx(float(moved.square().sum()), rel=0.02)
    assert row.sums.weights == pytest.approx(float(before["weight"].double().square().sum()), rel=0.02)
    assert row.sums.gradients == pytest.approx(float(model.weight.grad.double().square().sum()), rel=1e-3)
    assert row.sums.elements == row.sums.driven == 2_000_000


# ---------------------------------------------------------------- what it leaves alone


class Watch(TorchDispatchMode):
    """How often a value was read."""

    reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("args", ["", "fused_backward=true", "master_weights=24bit,state_dtype=int8"])
def test_no_value_is_read_before_somebody_asks(args: str) -> None:
    counts = []
    for more in ("monitor=false", "monitor=true"):
        model = llama().bfloat16()
        optimizer: Any = anyoptim.get_optimizer("lion", model, optim_args=",".join(filter(None, [args, more])))
        if more == "monitor=true":
            optimizer.monitor.every = 1
        model(input_ids=batch(0), labels=batch(0)).loss.backward()
        optimizer.step()
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        with Watch() as watch:
            if "fused" in args:
                sum(each.square().sum() for each in model.parameters()).backward()
            optimizer.step()
        counts.append(watch.reads)
    assert counts[0] == counts[1]
    assert optimizer.monitor.reading().step == 2


@pytest.mark.parametrize("args", ["", "monitor=false", "monitor=false,fused_backward=true"])
def test_off_means_no_hook(args: str) -> None:
    optimizer: Any = anyoptim.get_optimizer("adamw_torch", llama(), optim_args=args or None)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert not hasattr(optimizer, "monitor")
    assert getattr(optimizer, "before_update", None) is None
    assert monitor_of(optimizer) is None


def test_state_dicts_and_copies_hold_nothing_of_it() -> None:
    model = llama()
    optimizer = monitored("adamw_torch", model, "fused_backward=true")
    plain_steps(model, optimizer, 2)
    plain = anyoptim.get_optimizer("adamw_torch", llama(), optim_args="fused_backward=true")
    plain.load_state_dict(optimizer.state_dict())
    assert "monitor" not in str(optimizer.state_dict())
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert vars(other)["monitor"] is None and other.before_update is None
    assert optimizer.monitor.reading().step == 2


def test_a_parameter_that_is_added_later_is_something_other() -> None:
    model = nn.Linear(4, 4)
    optimizer = monitored("adamw_torch", model)
    late = nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [late]})
    (model(torch.ones(4)).sum() + late.sum()).backward()
    optimizer.step()
    assert set(optimizer.monitor.reading().by_role) == {"bias", "other", "output_head"} or set(
        optimizer.monitor.reading().by_role
    ) == {"bias", "other", "hidden_matrix"}


def test_a_compiled_step_is_measured() -> None:
    readings = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(4, 4)
        optimizer = monitored("muon", model, optim_target_modules="all-linear", lr=1e-2)
        torch.compiler.reset()
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        for number in range(4):
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            step()
        readings.append(optimizer.monitor.read())
    assert readings[0] == pytest.approx(readings[1], rel=1e-3)


@pytest.mark.parametrize("name", ["adamw_torch_fused", "lookahead(adamw_torch_fused)", "adamw_torch"])
def test_a_step_that_a_scaler_leaves_out_measures_nothing(name: str) -> None:
    model = nn.Linear(4, 4)
    optimizer = monitored(name, model, lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    lengths = []
    for number in range(2):
        loss = model(torch.ones(2, 4)).square().mean() * (torch.inf if number else 1.0)
        if not number:
            grads = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
            lengths = [float(torch.cat([each.flatten() for each in grads]).norm())]
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    reading = optimizer.monitor.reading()
    assert reading.step == 1
    assert math.hypot(*(each.grad_norm for each in reading.by_role.values())) == pytest.approx(lengths[0], rel=1e-4)


# ---------------------------------------------------------------- where it cannot be


def test_it_is_refused_where_pieces_are_flat() -> None:
    with pytest.raises(OptimError, match="monitor cannot tell"):
        anyoptim.plan("adamw_torch", llama(), {"deepspeed": {"zero_optimization": {"stage": 2}}}, monitor=True)


def test_it_is_refused_where_nobody_calls_step() -> None:
    with pytest.raises(OptimError, match=r"lomo-optim updates in a backward pass of its own; leave monitor out"):
        anyoptim.plan("adalomo", llama(), monitor=True, implementation="upstream")


def test_it_is_the_very_class_that_is_measured() -> None:
    optimizer: Any = built("adamw_torch", llama(), "monitor=true")
    assert type(optimizer) is torch.optim.AdamW
    assert isinstance(optimizer.monitor, Monitor)
