"""The papers' algorithms in float64, one parameter and one step at a time, as plainly as they can be written."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from engines import gradients
from torch import Tensor

from anyoptim.engines.apollo import random_projection
from anyoptim.engines.orthogonal import EPS, orthogonalized
from anyoptim.engines.quantized import dynamic_values

Step = Callable[[Tensor, Tensor, dict[str, Any], dict[str, Any]], Tensor]


def lomo(theta: Tensor, g: Tensor, state: dict[str, Any], h: dict[str, Any]) -> Tensor:
    """Algorithm 1 of arXiv 2306.09782, with the clipping of its section 3.3."""
    if h["clip_grad_value"] is not None:
        g = g.clamp(-h["clip_grad_value"], h["clip_grad_value"])
    return theta * (1 - h["lr"] * h["weight_decay"]) - h["lr"] * g


def adalomo(theta: Tensor, g: Tensor, state: dict[str, Any], h: dict[str, Any]) -> Tensor:
    """Algorithm 1 of arXiv 2310.10195."""
    if h["clip_grad_value"] is not None:
        g = g.clamp(-h["clip_grad_value"], h["clip_grad_value"])
    t = state["t"] = state.get("t", 0) + 1
    beta = 1 - t ** h["decay_rate"]
    squared = g**2 + h["eps"][0]
    if theta.dim() < 2:
        v = state["v"] = beta * state.get("v", 0) + (1 - beta) * squared
    else:
        row = state["row"] = beta * state.get("row", 0) + (1 - beta) * squared.mean(-1)
        column = state["column"] = beta * state.get("column", 0) + (1 - beta) * squared.mean(-2)
        v = row.unsqueeze(-1) * column.unsqueeze(-2) / row.mean(-1)[..., None, None]
    u = g / v.sqrt()
    u = u / max(1.0, rms(u) / h["clip_threshold"])
    rate = h["lr"] * max(h["eps"][1], rms(theta))
    return theta * (1 - rate * h["weight_decay"]) - rate * u


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def adam(g: Tensor, state: dict[str, Any], h: dict[str, Any], beta1: float) -> Tensor:
    """The direction m / (sqrt(v) + eps), without bias correction."""
    beta2 = h["betas"][1]
    m = state["m"] = beta1 * state.get("m", 0) + (1 - beta1) * g
    v = state["v"] = beta2 * state.get("v", 0) + (1 - beta2) * g**2
    return m / (v.sqrt() + h["eps"])


def corrected_rate(t: int, h: dict[str, Any]) -> float:
    beta1, beta2 = h["betas"]
    return float(h["lr"] * math.sqrt(1 - beta2**t) / (1 - beta1**t))


def grokadamw(theta: Tensor, g: Tensor, state: dict[str, Any], h: dict[str, Any]) -> Tensor:
    """The formula of the project's README; ``index`` is the position among the parameters with a gradient."""
    t = state["t"] = state.get("t", 0) + 1
    if h["gradient_clipping"] > 0:
        g = g * min(1.0, h["gradient_clipping"] / (float(g.norm()) + 1e-6))
    signals = [each() for each in h["grokking_signal_fns"] or []]
    signal = sum(signals) / len(signals) if signals else 0.0
    alpha = h["alpha_init"] * math.exp(-h["grokking_signal_decay_rate"] * signal)
    ema = state["ema"] = alpha * state.get("ema", 0) + (1 - alpha) * g
    direction = adam(g + h["lamb"] * ema, state, h, h["betas"][0] * (1 - h["gamma"]) ** state["index"])
    return theta * (1 - h["lr"] * h["weight_decay"]) - corrected_rate(t, h) * direction


def apollo(theta: Tensor, g: Tensor, state: dict[str, Any], h: dict[str, Any]) -> Tensor:
    """Algorithm 1 of arXiv 2412.05270 on matrices, AdamW on vectors; weight decay after the update."""
    if theta.dim() == 3:
        parts = state.setdefault("parts", [{**state, "expert": index} for index in range(len(theta))])
        return torch.stack([apollo(theta[index], g[index], parts[index], h) for index in range(len(theta))])
    t = state["t"] = state.get("t", 0) + 1
    rate = corrected_rate(t, h) if h["correct_bias"] else h["lr"]
    update = adam(g, state, h, h["betas"][0]) if theta.dim() < 2 else scaled(g, state, h, t)
    return (theta - rate * update) * (1 - h["lr"] * h["weight_decay"])


def scaled(g: Tensor, state: dict[str, Any], h: dict[str, Any], t: int) -> Tensor:
    tall = g.shape[0] >= g.shape[1]
    right = {"std": tall, "reverse_std": not tall, "right": True, "left": False}[h["proj_type"]]
    if (t - 1) % h["update_proj_gap"] == 0:
        state["P"] = projection(g, state, h, right, (t - 1) // h["update_proj_gap"])
    low = g @ state["P"].T if right else state["P"].T @ g
    direction = adam(low, state, h, h["betas"][0])
    dims = (0, 1) if h["scale_type"] == "tensor" else (1,) if right else (0,)
    s = direction.norm(dim=dims, keepdim=True) / (low.norm(dim=dims, keepdim=True) + 1e-8)
    update = g * s * (math.sqrt(h["scale"]) if h["scale_front"] else 1.0)
    if not h["disable_nl"]:
        norm = float(update.norm())
        if "norm" in state:
            limiter = max(norm / (state["norm"] + 1e-8), 1.01) / 1.01
            update, norm = update / limiter, norm / limiter
        state["norm"] = norm
    return update * (1.0 if h["scale_front"] else math.sqrt(h["scale"]))


def projection(g: Tensor, state: dict[str, Any], h: dict[str, Any], right: bool, renewals: int) -> Tensor:
    """The engine's own draw, so that both project alike."""
    if h["proj"] == "svd":
        u, _, vh = torch.linalg.svd(g, full_matrices=False)
        return vh[: h["rank"]] if right else u[:, : h["rank"]]
    like = g if "expert" not in state else g.expand(state["experts"], *g.shape)
    drawn = random_projection(like, h["rank"], "right" if right else "left", state["seed"] + renewals * 1_000_003)
    return drawn if "expert" not in state else drawn[state["expert"]]


def muon(theta: Tensor, g: Tensor, state: dict[str, Any], h: dict[str, Any]) -> Tensor:
    """Keller Jordan's algorithm on matrices, AdamW on vectors."""
    if theta.dim() == 3:
        return of_each(muon, theta, g, state, h)
    if theta.dim() < 2:
        return adamw_fallback(theta, g, state, h)
    b = state["b"] = h["momentum"] * state.get("b", 0) + (1 - h["momentum"]) * g
    direction = (1 - h["momentum"]) * g + h["momentum"] * b if h["nesterov"] else b
    return moved(theta, orthogonal(direction, h, h["eps"]), h)


def normuon(theta: Tensor, g: Tensor, state: dict[str, Any], h: dict[str, Any]) -> Tensor:
    """Algorithm 1 of arXiv 2510.05491, and its authors' choice of a step's length; AdamW on vectors."""
    if theta.dim() == 3:
        return of_each(normuon, theta, g, state, h)
    if theta.dim() < 2:
        return adamw_fallback(theta, g, state, h)
    m = state["m"] = h["momentum"] * state.get("m", 0) + (1 - h["momentum"]) * g
    o = orthogonal((1 - h["momentum"]) * g + h["momentum"] * m if h["nesterov"] else m, h)
    v = state["v"] = h["beta2"] * state.get("v", 0) + (1 - h["beta2"]) * (o * o).mean(1)
    hat = o / (v.sqrt() + h["eps"])[:, None]
    rate = 0.2 * h["lr"] * math.sqrt(o.numel()) / (hat.norm() + h["eps"])
    if h["adjust_lr_fn"] != "match_rms_adamw":
        rate = h["lr"] * o.norm() / (hat.norm() + h["eps"]) * math.sqrt(max(1, len(o) / o.shape[1]))
    return theta * (1 - h["lr"] * h["weight_decay"]) - rate * hat


def adamuon(theta: Tensor, g: Tensor, state: dict[str, Any], h: dict[str, Any]) -> Tensor:
    """Algorithm 1 of arXiv 2507.11005, and of its first version without signs; AdamW on vectors."""
    if theta.dim() == 3:
        return of_each(adamuon, theta, g, state, h)
    if theta.dim() < 2:
        return adamw_fallback(theta, g, state, h)
    beta1, beta2 = h["betas"]
    m = state["m"] = beta1 * state.get("m", 0) + (1 - beta1) * g
    o = orthogonal(m.sign() if h["sign"] else m, h)
    v = state["v"] = beta2 * state.get("v", 0) + (1 - beta2) * o * o
    hat = o / (v.sqrt() + h["eps"])
    gamma = 0.2 * math.sqrt(o.numel())
    if h["adjust_lr_fn"] != "match_rms_adamw":
        gamma = math.sqrt(min(o.shape)) * math.sqrt(max(1, len(o) / o.shape[1]))
    return theta * (1 - h["lr"] * h["weight_decay"]) - h["lr"] * gamma / (hat.norm() + h["eps"]) * hat


def orthogonal(x: Tensor, h: dict[str, Any], eps: float = EPS) -> Tensor:
    """The engine's own, which ``test_orthogonal.py`` holds against others: it is defined in bf16."""
    rounded = x.to(torch.bfloat16, copy=True)
    (found,) = orthogonalized([rounded], h["orthogonalize"], h["ns_coefficients"], h["ns_steps"], eps)
    return found.double()


def moved(theta: Tensor, direction: Tensor, h: dict[str, Any]) -> Tensor:
    """Muon's step; ``match_rms_adamw`` is section 2.2 of arXiv 2502.16982."""
    rows, columns = theta.shape
    factor = math.sqrt(max(1, rows / columns))
    if h["adjust_lr_fn"] == "match_rms_adamw":
        factor = 0.2 * math.sqrt(max(rows, columns))
    return theta * (1 - h["lr"] * h["weight_decay"]) - h["lr"] * factor * direction


def adamw_fallback(theta: Tensor, g: Tensor, state: dict[str, Any], h: dict[str, Any]) -> Tensor:
    return adamw(theta, g, state, {key.removeprefix("fallback_"): h[key] for key in h if key.startswith("fallback")})


def adamw(theta: Tensor, g: Tensor, state: dict[str, Any], h: dict[str, Any]) -> Tensor:
    """Algorithm 2 of arXiv 1711.05101, with torch's place of eps."""
    t = state["t"] = state.get("t", 0) + 1
    beta1, beta2 = h["betas"]
    m = state["m"] = beta1 * state.get("m", 0) + (1 - beta1) * g
    v = state["v"] = beta2 * state.get("v", 0) + (1 - beta2) * g**2
    direction = m / (1 - beta1**t) / ((v / (1 - beta2**t)).sqrt() + h["eps"])
    return theta * (1 - h["lr"] * h["weight_decay"]) - h["lr"] * direction


def galore_adamw(theta: Tensor, g: Tensor, state: dict[str, Any], h: dict[str, Any]) -> Tensor:
    """Algorithm 2 of arXiv 2403.03507, AdamW on vectors; weight decay after the update."""
    if theta.dim() == 3:
        return of_each(galore_adamw, theta, g, state, h)
    t = state["t"] = state.get("t", 0) + 1
    rate = corrected_rate(t, h) if h["correct_bias"] else h["lr"]
    moments = adam_in_8_bits if h["optim_bits"] == 8 else adam
    if theta.dim() < 2:
        update = moments(g, state, h, h["betas"][0])
    else:
        left, right = subspaces(g, state, h, t)
        update = h["scale"] * left @ moments(left.T @ g @ right.T, state, h, h["betas"][0]) @ right
    return (theta - rate * update) * (1 - h["lr"] * h["weight_decay"])


def galore_adafactor(theta: Tensor, g: Tensor, state: dict[str, Any], h: dict[str, Any]) -> Tensor:
    """Algorithm 4 of arXiv 1804.04235 (5 on vectors) inside Algorithm 1 of arXiv 2403.03507."""
    if theta.dim() == 3:
        return of_each(galore_adafactor, theta, g, state, h)
    t = state["t"] = state.get("t", 0) + 1
    rate = h["lr"] * (max(h["eps"][1], rms(theta)) if h["scale_parameter"] else 1.0)
    left, right = subspaces(g, state, h, t) if theta.dim() == 2 else (None, None)
    low = g if left is None else left.T @ g @ right.T
    beta, squared = 1 - t ** h["decay_rate"], low**2 + h["eps"][0]
    if low.dim() < 2:
        v = state["v"] = beta * state.get("v", 0) + (1 - beta) * squared
    else:
        row = state["row"] = beta * state.get("row", 0) + (1 - beta) * squared.mean(1)
        column = state["column"] = beta * state.get("column", 0) + (1 - beta) * squared.mean(0)
        v = torch.outer(row, column) / row.mean()
    u = low / v.sqrt()
    u = rate * u / max(1.0, rms(u) / h["clip_threshold"])
    if h["beta1"] is not None:
        u = state["m"] = h["beta1"] * state.get("m", 0) + (1 - h["beta1"]) * u
    update = u if left is None else h["scale"] * left @ u @ right
    return theta * (1 - rate * h["weight_decay"]) - update


def of_each(update: Step, theta: Tensor, g: Tensor, state: dict[str, Any], h: dict[str, Any]) -> Tensor:
    """A stack is that many matrices."""
    parts = state.setdefault("parts", [{} for _ in theta])
    return torch.stack([update(*each, h) for each in zip(theta, g, parts, strict=True)])


def subspaces(g: Tensor, state: dict[str, Any], h: dict[str, Any], t: int) -> tuple[Tensor, Tensor]:
    """Singular vectors of the sides that are projected, the identity for the others."""
    tall = g.shape[0] >= g.shape[1]
    sides = {"std": "right" if tall else "left", "reverse_std": "left" if tall else "right", "full": "left right"}
    if (t - 1) % h["update_proj_gap"] == 0:
        u, _, vh = torch.linalg.svd(g, full_matrices=False)
        chosen = sides.get(h["proj_type"], h["proj_type"])
        left = u[:, : h["rank"]] if "left" in chosen else torch.eye(len(g), dtype=g.dtype)
        right = vh[: h["rank"]] if "right" in chosen else torch.eye(g.shape[1], dtype=g.dtype)
        state["subspaces"] = left, right
    subspaces: tuple[Tensor, Tensor] = state["subspaces"]
    return subspaces


def adam_in_8_bits(g: Tensor, state: dict[str, Any], h: dict[str, Any], beta1: float) -> Tensor:
    """Moments of 4096 elements or more are rounded after each step; arXiv 2110.02861."""
    direction = adam(g, state, h, beta1)
    if g.numel() >= 4096:
        state["m"], state["v"] = rounded(state["m"], signed=True), rounded(state["v"], signed=False)
    return direction


def rounded(x: Tensor, signed: bool) -> Tensor:
    """Each block of 256 to the nearest of its 256 values, in fp32 as it is stored."""
    values = torch.tensor(dynamic_values(signed), dtype=torch.float32)
    middles = (values[:-1] + values[1:]) / 2
    blocks = []
    for block in x.flatten().float().split(256):
        largest = block.abs().max()
        blocks.append(values[torch.searchsorted(middles, block * (1 / largest))] * largest)
    return torch.cat(blocks).view_as(x).double()


PAPERS: dict[str, Step] = {
    "muon": muon,
    "normuon": normuon,
    "adamuon": adamuon,
    "lomo": lomo,
    "adalomo": adalomo,
    "grokadamw": grokadamw,
    "apollo_adamw": apollo,
    "apollo_adamw_layerwise": apollo,
    "apollo_mini": apollo,
    **{f"galore_adamw{which}": galore_adamw for which in ("", "_8bit", "_layerwise", "_8bit_layerwise")},
    **{f"galore_adafactor{which}": galore_adafactor for which in ("", "_layerwise")},
}


class Paper:
    """Parameters trained by a paper's algorithm; ``seeds`` are the places at which an optimizer holds them."""

    def __init__(self, name: str, weights: dict[str, Tensor], seeds: dict[str, int], settings: dict[str, Any]) -> None:
        self.update, self.settings = PAPERS[name], settings
        self.weights = {name: each.detach().double().clone() for name, each in weights.items()}
        self.states: dict[str, dict[str, Any]] = {
            name: {"index": index, "seed": seeds[name], "experts": len(each)}
            for index, (name, each) in enumerate(self.weights.items())
        }

    def step(self, number: int) -> dict[str, Tensor]:
        drawn = gradients({name: each.shape for name, each in self.weights.items()}, number)
        for name, theta in self.weights.items():
            if theta.numel():
                self.weights[name] = self.update(theta, drawn[name].double(), self.states[name], self.settings)
        return self.weights
