"""What each algorithm is, for packages that offer it: one line, its paper, and the learning rates it usually takes."""

from __future__ import annotations

from typing import NamedTuple


class Algorithm(NamedTuple):
    """What an optimizer's name stands for, whichever package implements it.

    Args:
        summary: one line for a person.
        paper: where it is published.
        usual_lr: lowest and highest learning rate in common use; ``None`` where it has no meaning.
    """

    summary: str
    paper: str = ""
    usual_lr: tuple[float, float] | None = None


ALGORITHMS: dict[str, Algorithm] = {
    "a2grad": Algorithm(
        "Accelerated SGD whose step adapts to the accumulated noise of the gradient", "arXiv 1810.00553"
    ),
    "accsgd": Algorithm(
        "SGD that couples a short step with a long one, in place of momentum", "arXiv 1704.08227", (1e-3, 1.0)
    ),
    "adabelief": Algorithm(
        "Adam scaled by how far gradients stray from their average, not by how large they are",
        "arXiv 2010.07468",
        (1e-6, 0.01),
    ),
    "adabound": Algorithm(
        "Adam whose step is bounded by rates that tighten toward SGD's",
        "https://openreview.net/forum?id=Bkg3g2R9FX",
        (1e-6, 0.01),
    ),
    "adadelta": Algorithm(
        "Scales gradients by the ratio of recent updates to recent gradients", "arXiv 1212.5701", (0.01, 10.0)
    ),
    "adafactor": Algorithm(
        "Keeps row and column sums of the squared gradient in place of Adam's full second moment",
        "arXiv 1804.04235",
        (1e-5, 0.01),
    ),
    "adafactorbv": Algorithm(
        "Adafactor as Big Vision has it: momentum in half precision, no relative step sizes",
        "arXiv 1804.04235, arXiv 2106.04560",
        (1e-5, 1.0),
    ),
    "adafactorbvc": Algorithm(
        "Big Vision's Adafactor whose weight decay shrinks with the square of the learning rate",
        "arXiv 1804.04235, arXiv 2506.02285",
        (1e-5, 1.0),
    ),
    "adagc": Algorithm(
        "AdamW that clips each tensor's gradient by a running average of its own norms",
        "arXiv 2502.11034",
        (1e-6, 0.01),
    ),
    "adago": Algorithm(
        "Muon's orthogonal step, sized as AdaGrad would by the accumulated gradient norms",
        "arXiv 2509.02981",
        (1e-3, 0.1),
    ),
    "adagrad": Algorithm(
        "Scales gradients by the root of the sum of all their squares so far",
        "http://jmlr.org/papers/v12/duchi11a.html",
        (1e-4, 0.1),
    ),
    "adagrad_32bit": Algorithm(
        "AdaGrad with 32-bit accumulators", "http://jmlr.org/papers/v12/duchi11a.html", (1e-4, 0.1)
    ),
    "adagrad_8bit": Algorithm(
        "AdaGrad with 8-bit blockwise accumulators",
        "http://jmlr.org/papers/v12/duchi11a.html, arXiv 2110.02861",
        (1e-4, 0.1),
    ),
    "adahessian": Algorithm(
        "Adam on the Hessian's diagonal, estimated from random Hessian-vector products", "arXiv 2006.00719", (1e-3, 1.0)
    ),
    "adai": Algorithm(
        "SGD whose momentum, not its step, adapts to each weight's squared gradients", "arXiv 2006.15815", (1e-3, 1.0)
    ),
    "adalite": Algorithm(
        "Adam-like with factored moments and gradients scaled by a per-tensor trust ratio",
        "https://github.com/VatsaDev/adalite",
        (1e-6, 0.01),
    ),
    "adalomo": Algorithm(
        "LOMO with a factored second moment: weights are updated within the backward pass",
        "arXiv 2310.10195",
        (1e-4, 0.03),
    ),
    "adam": Algorithm(
        "Averages gradients and their squares, and steps by the one over the other's root",
        "arXiv 1412.6980",
        (1e-6, 0.01),
    ),
    "adam_32bit": Algorithm("Adam with 32-bit moments", "arXiv 1412.6980", (1e-6, 0.01)),
    "adam_4bit": Algorithm("Adam with 4-bit blockwise moments", "arXiv 2309.01507", (1e-6, 0.01)),
    "adam_8bit": Algorithm("Adam with 8-bit blockwise moments", "arXiv 2110.02861", (1e-6, 0.01)),
    "adam_fp8": Algorithm("Adam with moments in scaled float8 blocks", "arXiv 2409.12517", (1e-6, 0.01)),
    "adam_mini": Algorithm(
        "AdamW with one second moment per block of weights, such as a head or an output row",
        "arXiv 2406.16793",
        (1e-6, 0.01),
    ),
    "adamax": Algorithm(
        "Adam scaled by a decaying maximum of gradients in place of their mean square", "arXiv 1412.6980", (1e-6, 0.01)
    ),
    "adamc": Algorithm(
        "AdamW whose weight decay shrinks with the square of the learning rate", "arXiv 2506.02285", (1e-6, 0.01)
    ),
    "adamg": Algorithm(
        "Parameter-free Adam whose step grows with the accumulated gradients, as in AdaGrad-Norm",
        "arXiv 2405.04376",
        (0.5, 2.0),
    ),
    "adammini": Algorithm(
        "AdamW with one second moment per block of weights, such as a head or an output row",
        "arXiv 2406.16793",
        (1e-6, 1.0),
    ),
    "adamod": Algorithm(
        "Adam whose per-weight step sizes are capped by their own running average", "arXiv 1910.12249", (1e-6, 0.01)
    ),
    "adamp": Algorithm(
        "Adam without the radial part of the step on weights whose scale does not matter",
        "arXiv 2006.08217",
        (1e-6, 0.01),
    ),
    "adams": Algorithm(
        "Adam whose decoupled decay is divided by the root mean second moment of all weights",
        "arXiv 2011.11152",
        (1e-6, 0.01),
    ),
    "adamuon": Algorithm(
        "Muon with an elementwise second moment kept of the orthogonalized update", "arXiv 2507.11005", (1e-4, 0.05)
    ),
    "adamw": Algorithm(
        "Adam whose weight decay acts on the weights, not on the gradient", "arXiv 1711.05101", (1e-6, 0.01)
    ),
    "adamw_32bit": Algorithm("AdamW with 32-bit moments", "arXiv 1711.05101", (1e-6, 0.01)),
    "adamw_4bit": Algorithm("AdamW with 4-bit blockwise moments", "arXiv 2309.01507", (1e-6, 0.01)),
    "adamw_8bit": Algorithm("AdamW with 8-bit blockwise moments", "arXiv 2110.02861", (1e-6, 0.01)),
    "adamw_fp8": Algorithm("AdamW with moments in scaled float8 blocks", "arXiv 2409.12517", (1e-6, 0.01)),
    "adamwlegacy": Algorithm(
        "AdamW in timm's older implementation, from before PyTorch had one", "arXiv 1711.05101", (1e-6, 0.01)
    ),
    "adamwschedulefree": Algorithm(
        "AdamW that needs no schedule: gradients at a blend of the iterate and its average",
        "arXiv 2405.15682",
        (1e-4, 0.01),
    ),
    "adamwschedulefreeclosure": Algorithm(
        "Schedule-free AdamW that swaps weights around a closure, with no train and eval modes",
        "arXiv 2405.15682",
        (1e-4, 0.01),
    ),
    "adamwschedulefreepaper": Algorithm(
        "Schedule-free AdamW with the simpler bias correction of the paper's experiments",
        "arXiv 2405.15682",
        (1e-4, 0.01),
    ),
    "adamwschedulefreereference": Algorithm(
        "Schedule-free AdamW written plainly, with a further copy of the weights in memory",
        "arXiv 2405.15682",
        (1e-4, 0.01),
    ),
    "adamwsn": Algorithm(
        "AdamW with one second moment per subset of a tensor's weights", "arXiv 2411.07120", (1e-6, 0.01)
    ),
    "adan": Algorithm(
        "Nesterov momentum from differences of gradients, with Adam's scaling", "arXiv 2208.06677", (1e-5, 0.02)
    ),
    "adanorm": Algorithm(
        "Adam whose first moment takes small gradients rescaled to the running average norm",
        "arXiv 2210.06364",
        (1e-6, 0.01),
    ),
    "adanw": Algorithm(
        "Adan with AdamW's decoupled weight decay instead of the proximal one", "arXiv 2208.06677", (1e-5, 0.02)
    ),
    "adapnm": Algorithm(
        "Adam with positive-negative momentum, which weighs alternate steps with opposite signs",
        "arXiv 2103.17182",
        (1e-6, 0.01),
    ),
    "adashift": Algorithm(
        "Adam whose second moment comes from gradients several steps old", "arXiv 1810.00143", (1e-6, 0.01)
    ),
    "adasmooth": Algorithm(
        "RMSprop whose decay rate follows how straight each weight's path has been", "arXiv 2204.00825", (1e-6, 0.01)
    ),
    "adatam": Algorithm(
        "Adam with gradients damped where they disagree with the momentum's direction", "arXiv 2412.18790", (1e-6, 0.01)
    ),
    "ademamix": Algorithm(
        "AdamW with a second, far slower gradient average added to the usual one", "arXiv 2409.03137", (1e-6, 0.01)
    ),
    "ademamix_32bit": Algorithm("AdEMAMix with 32-bit moments", "arXiv 2409.03137", (1e-6, 0.01)),
    "ademamix_8bit": Algorithm(
        "AdEMAMix with 8-bit blockwise moments", "arXiv 2409.03137, arXiv 2110.02861", (1e-6, 0.01)
    ),
    "adopt": Algorithm(
        "Adam that divides by the previous second moment before it averages, so any beta2 converges",
        "arXiv 2411.02853",
        (1e-6, 0.01),
    ),
    "adoptc": Algorithm(
        "ADOPT whose decoupled weight decay shrinks with the square of the learning rate",
        "arXiv 2411.02853, arXiv 2506.02285",
        (1e-6, 0.01),
    ),
    "adoptw": Algorithm("ADOPT with decoupled weight decay", "arXiv 2411.02853", (1e-6, 0.01)),
    "aggmo": Algorithm(
        "SGD with the mean of several momenta of different decay rates", "arXiv 1804.00325", (1e-3, 1.0)
    ),
    "aida": Algorithm(
        "AdaBelief on gradient and momentum projected onto each other, for more even step sizes",
        "arXiv 2203.13273",
        (1e-6, 0.01),
    ),
    "alice": Algorithm(
        "Adam in a low-rank subspace that is tracked, with the remainder of the gradient added back",
        "arXiv 2502.07752",
        (1e-4, 0.05),
    ),
    "alig": Algorithm(
        "Polyak-like steps: the loss over the squared gradient norm, up to a maximal rate", "arXiv 1906.05661"
    ),
    "amos": Algorithm(
        "Adam-style scaling with a weight decay derived from the expected size of the weights",
        "arXiv 2210.11693",
        (1e-4, 0.05),
    ),
    "ano": Algorithm(
        "Takes the direction from the momentum's sign and the size from the current gradient",
        "arXiv 2508.18258",
        (1e-6, 1e-3),
    ),
    "apollo": Algorithm(
        "AdamW's scaling per channel or tensor, estimated in a random low-rank space", "arXiv 2412.05270", (1e-5, 0.05)
    ),
    "apollodqn": Algorithm(
        "Quasi-Newton steps with a diagonal Hessian estimated from gradient differences",
        "arXiv 2009.13586",
        (1e-3, 1.0),
    ),
    "asgd": Algorithm(
        "SGD that also keeps the running average of its iterates",
        "Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992",
        (1e-3, 1.0),
    ),
    "avagrad": Algorithm(
        "Adam scaled by the previous second moment, with a global normalization of the rates",
        "arXiv 1912.01823",
        (1e-3, 1.0),
    ),
    "bcos": Algorithm(
        "Step sizes chosen per weight to bring it closest to the optimum in expectation",
        "arXiv 2507.08963",
        (1e-5, 0.01),
    ),
    "bitsandbytes/lamb": Algorithm(
        "AdamW whose update norm in a tensor may not exceed the norm of its weights", "arXiv 1904.00962", (1e-4, 0.02)
    ),
    "bitsandbytes/lars": Algorithm(
        "SGD with momentum whose update norm is capped at a fraction of the weight norm",
        "arXiv 1708.03888",
        (1e-3, 10.0),
    ),
    "bnbadam": Algorithm("Adam of bitsandbytes, with 32-bit moments", "arXiv 1412.6980", (1e-6, 0.01)),
    "bnbadam8bit": Algorithm("Adam of bitsandbytes, with 8-bit blockwise moments", "arXiv 2110.02861", (1e-6, 0.01)),
    "bnbadamw": Algorithm("AdamW of bitsandbytes, with 32-bit moments", "arXiv 1711.05101", (1e-6, 0.01)),
    "bnbadamw8bit": Algorithm(
        "AdamW of bitsandbytes, with 8-bit blockwise moments", "arXiv 1711.05101, arXiv 2110.02861", (1e-6, 0.01)
    ),
    "bnbademamix": Algorithm("AdEMAMix of bitsandbytes, with 32-bit moments", "arXiv 2409.03137", (1e-6, 0.01)),
    "bnbademamix8bit": Algorithm(
        "AdEMAMix of bitsandbytes, with 8-bit blockwise moments", "arXiv 2409.03137, arXiv 2110.02861", (1e-6, 0.01)
    ),
    "bnblion": Algorithm("Lion of bitsandbytes, with 32-bit momentum", "arXiv 2302.06675", (1e-6, 1e-3)),
    "bnblion8bit": Algorithm(
        "Lion of bitsandbytes, with 8-bit blockwise momentum", "arXiv 2302.06675, arXiv 2110.02861", (1e-6, 1e-3)
    ),
    "bnbsgd": Algorithm(
        "SGD of bitsandbytes, with Nesterov momentum in 32 bits",
        "http://www.cs.toronto.edu/~hinton/absps/momentum.pdf",
        (1e-3, 1.0),
    ),
    "bnbsgd8bit": Algorithm(
        "SGD of bitsandbytes, with Nesterov momentum in 8-bit blocks",
        "http://www.cs.toronto.edu/~hinton/absps/momentum.pdf, arXiv 2110.02861",
        (1e-3, 1.0),
    ),
    "bsam": Algorithm(
        "Sharpness-aware steps at randomly perturbed weights, with a variance kept for each weight",
        "arXiv 2210.01620",
        (0.01, 1.0),
    ),
    "cadafactor": Algorithm(
        "Cautious Adafactor: only steps that agree with the gradient's sign",
        "arXiv 1804.04235, arXiv 2411.16085",
        (1e-5, 0.01),
    ),
    "cadafactorbv": Algorithm(
        "Cautious Big Vision Adafactor: only steps that agree with the gradient's sign",
        "arXiv 1804.04235, arXiv 2411.16085",
        (1e-5, 1.0),
    ),
    "cadafactorbvc": Algorithm(
        "Cautious Big Vision Adafactor, its decay shrinking with the squared learning rate",
        "arXiv 2411.16085, arXiv 2506.02285",
        (1e-5, 1.0),
    ),
    "cadamc": Algorithm(
        "Cautious AdamW whose weight decay shrinks with the square of the learning rate",
        "arXiv 2411.16085, arXiv 2506.02285",
        (1e-6, 0.01),
    ),
    "cadamp": Algorithm(
        "AdamP that drops what opposes the gradient's sign, after projecting onto the sphere",
        "arXiv 2006.08217, https://openreview.net/forum?id=OyT2CJ4fh7",
        (1e-6, 0.01),
    ),
    "cadamw": Algorithm(
        "Cautious AdamW: only steps that agree with the gradient's sign", "arXiv 2411.16085", (1e-6, 0.01)
    ),
    "cadan": Algorithm(
        "Cautious Adan: only steps that agree with the gradient's sign",
        "arXiv 2208.06677, arXiv 2411.16085",
        (1e-5, 0.02),
    ),
    "cadanw": Algorithm(
        "Cautious Adan with decoupled weight decay", "arXiv 2208.06677, arXiv 2411.16085", (1e-5, 0.02)
    ),
    "cadopt": Algorithm(
        "Cautious ADOPT: only steps that agree with the gradient's sign",
        "arXiv 2411.02853, arXiv 2411.16085",
        (1e-6, 0.01),
    ),
    "cadoptc": Algorithm(
        "Cautious ADOPT whose weight decay shrinks with the square of the learning rate",
        "arXiv 2411.16085, arXiv 2506.02285",
        (1e-6, 0.01),
    ),
    "cadoptw": Algorithm(
        "Cautious ADOPT with decoupled weight decay", "arXiv 2411.02853, arXiv 2411.16085", (1e-6, 0.01)
    ),
    "came": Algorithm(
        "Adafactor with momentum, damped where its updates have been unstable", "arXiv 2307.02047", (1e-6, 1e-3)
    ),
    "clamb": Algorithm(
        "Cautious LAMB: only steps that agree with the gradient's sign",
        "arXiv 1904.00962, arXiv 2411.16085",
        (1e-4, 0.02),
    ),
    "clambw": Algorithm(
        "Cautious LAMB whose weight decay acts directly on the weights",
        "arXiv 1904.00962, arXiv 2411.16085",
        (1e-4, 0.02),
    ),
    "claprop": Algorithm(
        "Cautious LaProp: only steps that agree with the gradient's sign",
        "arXiv 2002.04839, arXiv 2411.16085",
        (1e-6, 0.01),
    ),
    "clion": Algorithm(
        "Cautious Lion: only steps that agree with the gradient's sign",
        "arXiv 2302.06675, arXiv 2411.16085",
        (1e-6, 1e-3),
    ),
    "clionc": Algorithm(
        "Cautious Lion whose weight decay shrinks with the square of the learning rate",
        "arXiv 2411.16085, arXiv 2506.02285",
        (1e-6, 1e-3),
    ),
    "cmars": Algorithm(
        "Cautious MARS: only steps that agree with the gradient's sign",
        "arXiv 2411.10438, arXiv 2411.16085",
        (1e-5, 0.01),
    ),
    "cnadamc": Algorithm(
        "Cautious NAdamW whose weight decay shrinks with the square of the learning rate",
        "arXiv 2411.16085, arXiv 2506.02285",
        (1e-6, 0.01),
    ),
    "cnadamw": Algorithm(
        "Cautious NAdamW: only steps that agree with the gradient's sign",
        "arXiv 1910.05446, arXiv 2411.16085",
        (1e-6, 0.01),
    ),
    "conda": Algorithm(
        "Adam whose second moment is kept in the singular basis of a matrix's momentum",
        "arXiv 2509.24218",
        (1e-5, 0.01),
    ),
    "crmsproptf": Algorithm(
        "Cautious RMSprop of TensorFlow's kind: only steps that agree with the gradient's sign",
        "arXiv 2411.16085",
        (1e-5, 0.01),
    ),
    "csgdc": Algorithm(
        "Cautious Nesterov SGD whose decay shrinks with the square of the learning rate",
        "arXiv 2411.16085, arXiv 2506.02285",
        (1e-3, 1.0),
    ),
    "csgdp": Algorithm(
        "SGDP that drops what opposes the gradient's sign, after projecting onto the sphere",
        "arXiv 2006.08217, https://openreview.net/forum?id=OyT2CJ4fh7",
        (1e-3, 1.0),
    ),
    "csgdw": Algorithm(
        "Cautious Nesterov SGD with decoupled weight decay", "arXiv 1711.05101, arXiv 2411.16085", (1e-3, 1.0)
    ),
    "dadaptadagrad": Algorithm(
        "AdaGrad that estimates the distance to the solution, and from it the learning rate",
        "arXiv 2301.07733",
        (0.5, 2.0),
    ),
    "dadaptadam": Algorithm(
        "Adam that estimates the distance to the solution, and from it the learning rate",
        "arXiv 2301.07733",
        (0.5, 2.0),
    ),
    "dadaptadan": Algorithm(
        "Adan that estimates the distance to the solution, and from it the learning rate",
        "arXiv 2301.07733",
        (0.1, 2.0),
    ),
    "dadaptlion": Algorithm(
        "Lion that estimates the distance to the solution, and from it the learning rate",
        "arXiv 2301.07733",
        (0.5, 2.0),
    ),
    "dadaptsgd": Algorithm(
        "SGD that estimates the distance to the solution, and from it the learning rate", "arXiv 2301.07733", (0.5, 2.0)
    ),
    "dash": Algorithm(
        "Shampoo on stacked blocks, with inverse roots found by iteration and Adam's step size",
        "arXiv 2602.02016",
        (1e-5, 0.01),
    ),
    "demo": Algorithm(
        "Sign SGD whose workers exchange only the strongest frequencies of their momenta",
        "arXiv 2411.19870",
        (1e-5, 0.01),
    ),
    "diffgrad": Algorithm(
        "Adam that slows down where the gradient hardly changes from step to step", "arXiv 1909.11015", (1e-6, 0.01)
    ),
    "distributedmuon": Algorithm(
        "Muon whose orthogonalizations are divided among the processes",
        "https://kellerjordan.github.io/posts/muon/, arXiv 2502.16982",
        (1e-4, 0.05),
    ),
    "dualadam": Algorithm(
        "Adam blended with its inverse, which multiplies by the second moment's root, at first",
        "arXiv 2603.07122",
        (1e-6, 0.01),
    ),
    "emofact": Algorithm("EmoNavi with a factored second moment", "https://github.com/muooon/EmoNavi", (1e-6, 0.01)),
    "emolynx": Algorithm("EmoNavi with Lion's sign update", "https://github.com/muooon/EmoNavi", (1e-6, 1e-3)),
    "emonavi": Algorithm(
        "Adam whose step grows or shrinks with the trend of the loss", "https://github.com/muooon/EmoNavi", (1e-6, 0.01)
    ),
    "exadam": Algorithm(
        "Adam whose bias corrections use both moments, with the present gradient added",
        "arXiv 2412.20302",
        (1e-6, 0.01),
    ),
    "fadam": Algorithm(
        "Adam as natural gradient: Fisher scaling and clipping of gradient and decay alike",
        "arXiv 2405.12807",
        (1e-6, 0.01),
    ),
    "fira": Algorithm(
        "GaLore's Adam that also applies the gradient outside the subspace, scaled to match",
        "arXiv 2410.01623",
        (1e-5, 0.02),
    ),
    "flashadamw": Algorithm(
        "AdamW with companded 8-bit moments and, if asked, extra bits for low-precision weights",
        "arXiv 2602.23349",
        (1e-6, 0.01),
    ),
    "focus": Algorithm(
        "Sign of the momentum plus a pull toward the running average of the weights", "arXiv 2501.12243", (1e-6, 0.01)
    ),
    "fromage": Algorithm(
        "Steps relative to the norm of each layer's weights, which it then shrinks slightly",
        "arXiv 2002.03432",
        (1e-3, 0.1),
    ),
    "ftrl": Algorithm(
        "Minimizes all past linearized losses plus L1 and L2 penalties, which yields sparse weights",
        "https://static.googleusercontent.com/media/research.google.com/en//pubs/archive/41159.pdf",
        (1e-3, 1.0),
    ),
    "fusedadam": Algorithm("Adam of NVIDIA Apex, one fused kernel", "arXiv 1412.6980", (1e-6, 0.01)),
    "fusedadamw": Algorithm("AdamW of NVIDIA Apex, one fused kernel", "arXiv 1711.05101", (1e-6, 0.01)),
    "fusedlamb": Algorithm("LAMB of NVIDIA Apex, one fused kernel", "arXiv 1904.00962", (1e-4, 0.02)),
    "fusednovograd": Algorithm("NovoGrad of NVIDIA Apex, one fused kernel", "arXiv 1905.11286", (1e-4, 0.05)),
    "fusedsgd": Algorithm(
        "SGD of NVIDIA Apex with Nesterov momentum, one fused kernel",
        "http://www.cs.toronto.edu/~hinton/absps/momentum.pdf",
        (1e-3, 1.0),
    ),
    "galore": Algorithm(
        "AdamW in a low-rank subspace of each matrix's gradient, renewed from time to time",
        "arXiv 2403.03507",
        (1e-5, 0.02),
    ),
    "grams": Algorithm(
        "Steps by the size of Adam's update in the direction of the present gradient's sign",
        "arXiv 2412.17107",
        (1e-6, 0.01),
    ),
    "gravity": Algorithm(
        "Momentum of gradients damped where they are near the tensor's largest", "arXiv 2101.09192", (1e-3, 1.0)
    ),
    "grokfastadamw": Algorithm(
        "AdamW on gradients with their slow component amplified", "arXiv 2405.20233", (1e-6, 0.01)
    ),
    "heavyball/muon": Algorithm(
        "Muon on all tensors of two or more dimensions, plain momentum on the rest",
        "https://kellerjordan.github.io/posts/muon/",
        (1e-4, 0.05),
    ),
    "heavyball/rmsprop": Algorithm(
        "RMSprop with Adam's bias correction of the squared gradients' average",
        "https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf",
        (1e-6, 0.01),
    ),
    "heavyball/scion": Algorithm(
        "Scion that also draws all weights anew at its first step", "arXiv 2502.07529", (1e-5, 0.05)
    ),
    "heavyklshampoo": Algorithm(
        "KL-Shampoo with a pseudoinverse in place of the damped inverse of its factors",
        "https://github.com/HomebrewML/HeavyBall",
        (1e-5, 0.01),
    ),
    "heavyklsoap": Algorithm(
        "KL-SOAP with HeavySOAP's basis update and a pseudoinverse of the factors",
        "https://github.com/HomebrewML/HeavyBall",
        (1e-5, 0.01),
    ),
    "heavysoap": Algorithm(
        "SOAP that reorders its basis and carries the second moment over to the new one",
        "https://github.com/HomebrewML/HeavyBall",
        (1e-5, 0.01),
    ),
    "heavysoapademamix": Algorithm(
        "HeavySOAP with AdEMAMix in the rotated basis", "https://github.com/HomebrewML/HeavyBall", (1e-5, 0.01)
    ),
    "heavysoapnadam": Algorithm(
        "HeavySOAP with NAdam in the rotated basis", "https://github.com/HomebrewML/HeavyBall", (1e-5, 0.01)
    ),
    "heavysolp": Algorithm(
        "HeavySOAP with LaProp in the rotated basis", "https://github.com/HomebrewML/HeavyBall", (1e-5, 0.01)
    ),
    "hyperballadamw": Algorithm(
        "RMSprop-scaled steps with the norms of matrices held at their initial values",
        "https://github.com/HomebrewML/HeavyBall",
        (1e-4, 0.05),
    ),
    "kate": Algorithm(
        "AdaGrad without the square root, so that rescaled data give the same steps", "arXiv 2403.02648", (1e-4, 0.1)
    ),
    "klshampoo": Algorithm(
        "Shampoo whose factors minimize a KL divergence, each weighted by the other's inverse",
        "arXiv 2509.03378",
        (1e-5, 0.01),
    ),
    "klsoap": Algorithm("SOAP whose basis comes from KL-Shampoo's factors", "arXiv 2509.03378", (1e-5, 0.01)),
    "kron": Algorithm(
        "SGD with a learned preconditioner, a Kronecker product of triangular factors", "arXiv 1512.04202", (1e-5, 0.01)
    ),
    "kronc": Algorithm(
        "Kron whose decoupled weight decay shrinks with the square of the learning rate",
        "arXiv 1512.04202, arXiv 2506.02285",
        (1e-5, 0.01),
    ),
    "kronw": Algorithm("Kron with decoupled weight decay", "arXiv 1512.04202", (1e-5, 0.01)),
    "lamb": Algorithm(
        "Adam whose step in each tensor is scaled by the norm of its weights", "arXiv 1904.00962", (1e-4, 0.02)
    ),
    "lamb_32bit": Algorithm("bitsandbytes' LAMB with 32-bit moments", "arXiv 1904.00962", (1e-4, 0.02)),
    "lamb_8bit": Algorithm(
        "bitsandbytes' LAMB with 8-bit blockwise moments, without the cap on the update's norm",
        "arXiv 1904.00962, arXiv 2110.02861",
        (1e-4, 0.02),
    ),
    "lambc": Algorithm("LAMB with trust ratios of at most one", "arXiv 1904.00962", (1e-4, 0.02)),
    "lambcd": Algorithm(
        "LAMB whose decoupled weight decay shrinks with the square of the learning rate",
        "arXiv 1904.00962, arXiv 2506.02285",
        (1e-4, 0.02),
    ),
    "lambcw": Algorithm(
        "LAMB with trust ratios of at most one and decoupled weight decay", "arXiv 1904.00962", (1e-4, 0.02)
    ),
    "lambw": Algorithm(
        "LAMB whose weight decay acts directly on the weights, outside the trust ratio",
        "arXiv 1904.00962",
        (1e-4, 0.02),
    ),
    "laprop": Algorithm(
        "Adam that scales gradients first and averages them afterwards", "arXiv 2002.04839", (1e-6, 0.01)
    ),
    "lapropc": Algorithm(
        "LaProp whose weight decay shrinks with the square of the learning rate",
        "arXiv 2002.04839, arXiv 2506.02285",
        (1e-6, 0.01),
    ),
    "laproportho": Algorithm(
        "LaProp whose update loses its component along the weights", "arXiv 2501.04697, arXiv 2002.04839", (1e-6, 0.01)
    ),
    "larc": Algorithm("LARS whose rate in each layer is at most the learning rate", "arXiv 1708.03888", (1e-3, 10.0)),
    "lars": Algorithm(
        "SGD with momentum, scaled in each layer by its weight norm over its gradient norm",
        "arXiv 1708.03888",
        (1e-3, 10.0),
    ),
    "lars_32bit": Algorithm("bitsandbytes' LARS with 32-bit momentum", "arXiv 1708.03888", (1e-3, 10.0)),
    "lars_8bit": Algorithm(
        "bitsandbytes' LARS with 8-bit blockwise momentum", "arXiv 1708.03888, arXiv 2110.02861", (1e-3, 10.0)
    ),
    "lather": Algorithm(
        "Adam in the approximate eigenbasis of Kron's preconditioner",
        "https://github.com/HomebrewML/HeavyBall, arXiv 1512.04202",
        (1e-5, 0.01),
    ),
    "lbfgs": Algorithm(
        "Quasi-Newton steps from a short history of gradients, with several evaluations a step", "", (0.01, 1.0)
    ),
    "lion": Algorithm(
        "The sign of a blend of momentum and gradient: one moment, steps of equal size",
        "arXiv 2302.06675",
        (1e-6, 1e-3),
    ),
    "lion_32bit": Algorithm("Lion with 32-bit momentum", "arXiv 2302.06675", (1e-6, 1e-3)),
    "lion_8bit": Algorithm("Lion with 8-bit blockwise momentum", "arXiv 2302.06675, arXiv 2110.02861", (1e-6, 1e-3)),
    "lionc": Algorithm(
        "Lion whose weight decay shrinks with the square of the learning rate",
        "arXiv 2302.06675, arXiv 2506.02285",
        (1e-6, 1e-3),
    ),
    "lomo": Algorithm(
        "SGD within the backward pass, so that gradients need not be kept", "arXiv 2306.09782", (1e-3, 0.1)
    ),
    "lorarite": Algorithm(
        "LoRA factors with a preconditioner that does not depend on how they are scaled or rotated",
        "arXiv 2410.20625",
        (1e-5, 0.01),
    ),
    "madgrad": Algorithm(
        "AdaGrad-like dual averaging, with a cube root in the denominator and momentum", "arXiv 2101.11075", (1e-5, 0.1)
    ),
    "madgradw": Algorithm("MADGRAD whose weight decay acts directly on the weights", "arXiv 2101.11075", (1e-5, 0.1)),
    "magma": Algorithm(
        "AdamW that skips updates of random blocks and scales the rest by momentum's alignment",
        "arXiv 2602.15322",
        (1e-6, 0.01),
    ),
    "mars": Algorithm(
        "AdamW on gradients corrected for variance by the preceding gradient", "arXiv 2411.10438", (1e-5, 0.01)
    ),
    "momentum": Algorithm(
        "SGD with classical momentum", "http://www.cs.toronto.edu/~hinton/absps/momentum.pdf", (1e-3, 1.0)
    ),
    "msamlaprop": Algorithm(
        "RMSprop-scaled steps, gradients taken at weights shifted along the momentum", "arXiv 2401.12033", (1e-6, 0.01)
    ),
    "msvag": Algorithm(
        "Momentum damped in each weight by its gradient's estimated relative variance", "arXiv 1705.07774", (1e-3, 1.0)
    ),
    "muon": Algorithm(
        "Orthogonalizes each matrix's momentum by Newton-Schulz iterations",
        "https://kellerjordan.github.io/posts/muon/, arXiv 2502.16982",
        (1e-4, 0.05),
    ),
    "muonadamw": Algorithm(
        "Muon on tensors of two or more dimensions, AdamW on the rest",
        "https://github.com/HomebrewML/HeavyBall, https://kellerjordan.github.io/posts/muon/",
        (1e-5, 0.01),
    ),
    "muonclip": Algorithm(
        "Muon that shrinks query and key weights of heads whose attention logits grow too large",
        "arXiv 2507.20534",
        (1e-4, 0.05),
    ),
    "muonlaprop": Algorithm(
        "Muon's orthogonalization of LaProp's update",
        "https://github.com/HomebrewML/HeavyBall, arXiv 2002.04839",
        (1e-4, 0.05),
    ),
    "nadam": Algorithm(
        "Adam whose momentum looks ahead as Nesterov's does",
        "https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ",
        (1e-6, 0.01),
    ),
    "nadamc": Algorithm(
        "NAdamW whose weight decay shrinks with the square of the learning rate",
        "arXiv 1910.05446, arXiv 2506.02285",
        (1e-6, 0.01),
    ),
    "nadamlegacy": Algorithm(
        "NAdam in timm's older implementation, from before PyTorch had one",
        "https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ",
        (1e-6, 0.01),
    ),
    "nadamuon": Algorithm(
        "AdaMuon with Nesterov momentum, and NAdamW for what is no matrix", "arXiv 2507.11005", (1e-4, 0.05)
    ),
    "nadamw": Algorithm("NAdam with decoupled weight decay", "arXiv 1910.05446", (1e-6, 0.01)),
    "nero": Algorithm(
        "Scales each neuron's gradient by its average norm and keeps weights centered and unit-norm",
        "arXiv 2102.07227",
        (1e-3, 0.1),
    ),
    "nesterov": Algorithm(
        "SGD with Nesterov momentum", "http://www.cs.toronto.edu/~hinton/absps/momentum.pdf", (1e-3, 1.0)
    ),
    "nesterovw": Algorithm("SGD with Nesterov momentum and decoupled weight decay", "arXiv 1711.05101", (1e-3, 1.0)),
    "nlarc": Algorithm("LARC with Nesterov momentum", "arXiv 1708.03888", (1e-3, 10.0)),
    "nlars": Algorithm("LARS whose momentum is Nesterov's", "arXiv 1708.03888", (1e-3, 10.0)),
    "nmuon": Algorithm(
        "Muon with Nesterov momentum, and NAdamW for what is no matrix",
        "https://kellerjordan.github.io/posts/muon/, arXiv 2502.16982",
        (1e-4, 0.05),
    ),
    "normuon": Algorithm(
        "Muon whose orthogonalized update is normalized row by row with a second moment",
        "arXiv 2510.05491",
        (1e-4, 0.05),
    ),
    "novograd": Algorithm(
        "Adam with one second moment per layer, from the gradient's norm", "arXiv 1905.11286", (1e-4, 0.05)
    ),
    "novogradc": Algorithm(
        "NovoGrad whose decoupled weight decay shrinks with the square of the learning rate",
        "arXiv 1905.11286, arXiv 2506.02285",
        (1e-4, 0.05),
    ),
    "novogradw": Algorithm(
        "NovoGrad whose weight decay acts directly on the weights", "arXiv 1905.11286", (1e-4, 0.05)
    ),
    "optimi/ranger": Algorithm(
        "RAdam whose weights Lookahead pulls back every few steps", "arXiv 1908.03265, arXiv 1907.08610", (1e-6, 0.01)
    ),
    "ortholaprop": Algorithm(
        "LaProp on gradients without their component along the weights",
        "arXiv 2501.04697, arXiv 2002.04839",
        (1e-6, 0.01),
    ),
    "padam": Algorithm(
        "Adam with a smaller power than the root of the second moment, between Adam and SGD",
        "arXiv 1806.06763",
        (1e-3, 1.0),
    ),
    "paged_adam": Algorithm("Adam whose state can be paged to CPU memory", "arXiv 1412.6980", (1e-6, 0.01)),
    "paged_adam_32bit": Algorithm(
        "Adam with 32-bit moments that can be paged to CPU memory", "arXiv 1412.6980", (1e-6, 0.01)
    ),
    "paged_adam_8bit": Algorithm(
        "Adam with 8-bit blockwise moments that can be paged to CPU memory", "arXiv 2110.02861", (1e-6, 0.01)
    ),
    "paged_adamw": Algorithm("AdamW whose state can be paged to CPU memory", "arXiv 1711.05101", (1e-6, 0.01)),
    "paged_adamw_32bit": Algorithm(
        "AdamW with 32-bit moments that can be paged to CPU memory", "arXiv 1711.05101", (1e-6, 0.01)
    ),
    "paged_adamw_8bit": Algorithm(
        "AdamW with 8-bit blockwise moments that can be paged to CPU memory",
        "arXiv 1711.05101, arXiv 2110.02861",
        (1e-6, 0.01),
    ),
    "paged_ademamix": Algorithm("AdEMAMix whose state can be paged to CPU memory", "arXiv 2409.03137", (1e-6, 0.01)),
    "paged_ademamix_32bit": Algorithm(
        "AdEMAMix with 32-bit moments that can be paged to CPU memory", "arXiv 2409.03137", (1e-6, 0.01)
    ),
    "paged_ademamix_8bit": Algorithm(
        "AdEMAMix with 8-bit blockwise moments that can be paged to CPU memory",
        "arXiv 2409.03137, arXiv 2110.02861",
        (1e-6, 0.01),
    ),
    "paged_lion": Algorithm("Lion whose momentum can be paged to CPU memory", "arXiv 2302.06675", (1e-6, 1e-3)),
    "paged_lion_32bit": Algorithm(
        "Lion with 32-bit momentum that can be paged to CPU memory", "arXiv 2302.06675", (1e-6, 1e-3)
    ),
    "paged_lion_8bit": Algorithm(
        "Lion with 8-bit blockwise momentum that can be paged to CPU memory",
        "arXiv 2302.06675, arXiv 2110.02861",
        (1e-6, 1e-3),
    ),
    "pid": Algorithm(
        "SGD with the gradient, its sum and its change as terms of a PID controller",
        "http://www4.comp.polyu.edu.hk/~cslzhang/paper/CVPR18_PID.pdf",
        (1e-3, 1.0),
    ),
    "pnm": Algorithm(
        "SGD with the difference of two momenta that alternate gradients feed, for more noise",
        "arXiv 2103.17182",
        (1e-3, 1.0),
    ),
    "prodigy": Algorithm(
        "Adam that estimates the distance to the solution, more quickly than D-Adaptation",
        "arXiv 2306.06101",
        (0.5, 2.0),
    ),
    "psgdkron": Algorithm(
        "SGD with a learned preconditioner, a Kronecker product of triangular factors", "arXiv 1512.04202", (1e-5, 0.01)
    ),
    "psgdlra": Algorithm("SGD with a learned low-rank preconditioner", "arXiv 1512.04202", (1e-5, 0.01)),
    "psgdpro": Algorithm(
        "Kron whose factors are refitted by Procrustes rotations that keep them nearly symmetric",
        "arXiv 1512.04202, arXiv 2402.11858",
        (1e-5, 0.01),
    ),
    "pytorch_optimizer/adafactor": Algorithm(
        "Adafactor that keeps a first moment too, in bfloat16 by default",
        "arXiv 1804.04235, arXiv 2106.04560",
        (1e-5, 0.01),
    ),
    "pytorch_optimizer/adamc": Algorithm(
        "AdamW whose decay shrinks with the squared learning rate, in groups marked normalized",
        "arXiv 2506.02285",
        (1e-6, 0.01),
    ),
    "pytorch_optimizer/asgd": Algorithm(
        "SGD whose step follows the local smoothness, read from successive gradients", "arXiv 1910.09529", (1e-3, 1.0)
    ),
    "pytorchlars": Algorithm(
        "SGD with momentum whose update norm is capped by the weights', in plain PyTorch",
        "arXiv 1708.03888",
        (1e-3, 10.0),
    ),
    "qhadam": Algorithm(
        "Adam with present gradients mixed into both of its averages", "arXiv 1810.06801", (1e-6, 0.01)
    ),
    "qhm": Algorithm("SGD with a weighted mean of the gradient and its momentum", "arXiv 1810.06801", (1e-3, 1.0)),
    "qsgd": Algorithm(
        "PSGDPRO that applies one factor of the preconditioner, its square root",
        "https://github.com/HomebrewML/HeavyBall, arXiv 1512.04202",
        (1e-5, 0.01),
    ),
    "racs": Algorithm("SGD with each matrix's gradient scaled by row and by column", "arXiv 2502.07752", (1e-4, 0.05)),
    "radabelief": Algorithm(
        "AdaBelief with RAdam's rectified step in the first iterations", "arXiv 2010.07468", (1e-6, 0.01)
    ),
    "radam": Algorithm(
        "Adam that damps its first steps while the second moment's variance is high", "arXiv 1908.03265", (1e-6, 0.01)
    ),
    "radamlegacy": Algorithm(
        "RAdam in timm's older implementation, from before PyTorch had one", "arXiv 1908.03265", (1e-6, 0.01)
    ),
    "radamschedulefree": Algorithm(
        "RAdam that needs no schedule and no warmup: it steps from averaged weights", "arXiv 2405.15682", (1e-4, 0.01)
    ),
    "radamschedulefreeclosure": Algorithm(
        "Schedule-free RAdam that swaps weights around a closure, with no train and eval modes",
        "arXiv 2405.15682",
        (1e-4, 0.01),
    ),
    "radamw": Algorithm("RAdam with decoupled weight decay", "arXiv 1908.03265", (1e-6, 0.01)),
    "ranger": Algorithm(
        "RAdam with Lookahead and centered gradients",
        "arXiv 1908.03265, arXiv 1907.08610, arXiv 2004.01461",
        (1e-6, 0.01),
    ),
    "ranger21": Algorithm(
        "AdamW with Lookahead, clipping, centered gradients, its own schedule and other add-ons",
        "arXiv 2106.13731",
        (1e-6, 0.01),
    ),
    "rmsprop": Algorithm(
        "Scales gradients by the root of a running average of their squares",
        "https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf",
        (1e-6, 0.01),
    ),
    "rmsprop_32bit": Algorithm(
        "RMSprop with a 32-bit average",
        "https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf",
        (1e-6, 0.01),
    ),
    "rmsprop_8bit": Algorithm(
        "RMSprop with an 8-bit blockwise average",
        "https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf, arXiv 2110.02861",
        (1e-6, 0.01),
    ),
    "rmsproptf": Algorithm(
        "RMSprop of TensorFlow's kind: epsilon inside the root, an average that starts at one",
        "https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf",
        (1e-6, 0.01),
    ),
    "rmsproptfc": Algorithm(
        "TensorFlow's RMSprop with a weight decay that shrinks with the squared learning rate",
        "arXiv 2506.02285",
        (1e-6, 0.01),
    ),
    "rmsproptfw": Algorithm("TensorFlow's RMSprop with decoupled weight decay", "arXiv 1711.05101", (1e-6, 0.01)),
    "rose": Algorithm(
        "Keeps no state: gradients are divided by their range within each row",
        "https://github.com/MatthewK78/Rose",
        (1e-5, 0.01),
    ),
    "rprop": Algorithm(
        "Step sizes per weight that grow while the gradient keeps its sign and shrink when it flips",
        "http://citeseerx.ist.psu.edu/viewdoc/summary?doi=10.1.1.21.1417",
        (1e-4, 0.1),
    ),
    "sara": Algorithm(
        "AdamW on those weights alone that were nearly zero at the start", "arXiv 2409.06633", (1e-6, 0.01)
    ),
    "scalableshampoo": Algorithm(
        "Shampoo in blocks, with rare inverse roots and a step size grafted from another optimizer",
        "arXiv 1802.09568, https://github.com/google-research/google-research/tree/master/scalable_shampoo",
        (1e-4, 0.1),
    ),
    "schedulefreeadamw": Algorithm(
        "AdamW that needs no schedule: gradients at a blend of the iterate and its average",
        "arXiv 2405.15682",
        (1e-4, 0.01),
    ),
    "schedulefreeradam": Algorithm(
        "RAdam that needs no schedule and no warmup: it steps from averaged weights", "arXiv 2405.15682", (1e-4, 0.01)
    ),
    "schedulefreesgd": Algorithm(
        "SGD that needs no schedule: gradients at a blend of the iterate and its average",
        "arXiv 2405.15682",
        (0.01, 10.0),
    ),
    "scion": Algorithm(
        "Steps to the best point of a norm ball, chosen for each layer's kind of tensor",
        "arXiv 2502.07529",
        (1e-5, 0.05),
    ),
    "scionlight": Algorithm(
        "Scion that keeps its momentum in the gradients themselves", "arXiv 2502.07529", (1e-5, 0.05)
    ),
    "sfadamw": Algorithm(
        "Schedule-free AdamW: gradients at a blend of the iterate and its average", "arXiv 2405.15682", (1e-4, 0.01)
    ),
    "sgd": Algorithm(
        "Steps against the gradient, with optional momentum",
        "http://www.cs.toronto.edu/~hinton/absps/momentum.pdf",
        (1e-3, 1.0),
    ),
    "sgd_32bit": Algorithm(
        "SGD with 32-bit momentum", "http://www.cs.toronto.edu/~hinton/absps/momentum.pdf", (1e-3, 1.0)
    ),
    "sgd_8bit": Algorithm(
        "SGD with 8-bit blockwise momentum",
        "http://www.cs.toronto.edu/~hinton/absps/momentum.pdf, arXiv 2110.02861",
        (1e-3, 1.0),
    ),
    "sgdc": Algorithm(
        "Nesterov SGD whose decoupled weight decay shrinks with the square of the learning rate",
        "arXiv 2506.02285",
        (1e-3, 1.0),
    ),
    "sgdp": Algorithm(
        "SGD without the radial part of the step on weights whose scale does not matter",
        "arXiv 2006.08217",
        (1e-3, 1.0),
    ),
    "sgdsai": Algorithm(
        "SGD with a rate per tensor, set once by the signal-to-noise ratio of the first gradient",
        "arXiv 2412.11768",
        (1e-4, 0.1),
    ),
    "sgdschedulefree": Algorithm(
        "SGD that needs no schedule: gradients at a blend of the iterate and its average",
        "arXiv 2405.15682",
        (0.01, 10.0),
    ),
    "sgdschedulefreeclosure": Algorithm(
        "Schedule-free SGD that swaps weights around a closure, with no train and eval modes",
        "arXiv 2405.15682",
        (0.01, 10.0),
    ),
    "sgdschedulefreereference": Algorithm(
        "Schedule-free SGD written plainly, with a further copy of the weights in memory",
        "arXiv 2405.15682",
        (0.01, 10.0),
    ),
    "sgdw": Algorithm(
        "SGD whose weight decay acts on the weights, not on the gradient", "arXiv 1711.05101", (1e-4, 1.0)
    ),
    "shampoo": Algorithm(
        "Preconditions each dimension of a tensor by an inverse root of its gradient covariance",
        "arXiv 1802.09568",
        (1e-4, 1.0),
    ),
    "signlaprop": Algorithm(
        "The sign of LaProp's update", "https://github.com/HomebrewML/HeavyBall, arXiv 2002.04839", (1e-6, 3e-3)
    ),
    "signsgd": Algorithm("The sign of the gradient or of its momentum", "arXiv 1802.04434", (1e-6, 1e-3)),
    "simplifiedademamix": Algorithm(
        "AdEMAMix with one average, to which the present gradient is added with a weight",
        "arXiv 2502.02431",
        (1e-6, 1e-3),
    ),
    "sm3": Algorithm(
        "AdaGrad that keeps maxima per row and column in place of all the sums", "arXiv 1901.11150", (1e-3, 1.0)
    ),
    "soap": Algorithm("Adam in the eigenbasis of Shampoo's preconditioner", "arXiv 2409.11321", (1e-5, 0.01)),
    "soapademamix": Algorithm(
        "SOAP with AdEMAMix in the rotated basis",
        "https://github.com/HomebrewML/HeavyBall, arXiv 2409.11321",
        (1e-5, 0.01),
    ),
    "soapnadam": Algorithm(
        "SOAP with NAdam in the rotated basis",
        "https://github.com/HomebrewML/HeavyBall, arXiv 2409.11321",
        (1e-5, 0.01),
    ),
    "solp": Algorithm(
        "SOAP with LaProp in the rotated basis",
        "https://github.com/HomebrewML/HeavyBall, arXiv 2409.11321",
        (1e-5, 0.01),
    ),
    "sophiah": Algorithm(
        "Momentum over an estimated Hessian diagonal, clipped elementwise", "arXiv 2305.14342", (1e-4, 0.1)
    ),
    "spam": Algorithm(
        "Adam that clips spikes in the gradient and resets its moments from time to time",
        "arXiv 2501.06842",
        (1e-6, 0.01),
    ),
    "sparseadam": Algorithm(
        "Adam for sparse gradients: moments change only where the gradient has entries", "arXiv 1412.6980", (1e-6, 0.01)
    ),
    "spectralsphere": Algorithm(
        "Muon's kind of step, kept tangent to a sphere of constant spectral norm", "arXiv 2601.08393", (1e-5, 0.05)
    ),
    "splus": Algorithm(
        "The sign of the momentum in Shampoo's eigenbasis, with averaged weights for evaluation",
        "arXiv 2506.07254",
        (1e-3, 1.0),
    ),
    "srmm": Algorithm(
        "SGD from running averages of gradients and weights, derived from surrogate losses",
        "arXiv 2201.01652",
        (1e-3, 1.0),
    ),
    "stableadamw": Algorithm(
        "AdamW with Adafactor's clipping of the update in place of gradient clipping", "arXiv 2304.13013", (1e-6, 0.01)
    ),
    "stablespam": Algorithm(
        "SPAM with limits on gradients that follow their own history", "arXiv 2502.17055", (1e-6, 0.01)
    ),
    "sudsadamw": Algorithm(
        "AdamW in a basis rotated toward the gradients' main direction, tracked by Oja's rule",
        "https://github.com/HomebrewML/HeavyBall",
        (1e-6, 0.01),
    ),
    "swats": Algorithm(
        "Starts as Adam and goes over to SGD, at a rate it estimates itself", "arXiv 1712.07628", (1e-6, 0.01)
    ),
    "tam": Algorithm(
        "SGD with momentum that damps gradients which disagree with its direction", "arXiv 2412.18790", (1e-3, 1.0)
    ),
    "tiger": Algorithm(
        "The sign of a single momentum: Lion with equal betas", "https://github.com/bojone/tiger", (1e-6, 1e-3)
    ),
    "timm/adamp": Algorithm("AdamP with Nesterov momentum", "arXiv 2006.08217", (1e-6, 0.01)),
    "timm/sgd": Algorithm(
        "SGD with Nesterov momentum", "http://www.cs.toronto.edu/~hinton/absps/momentum.pdf", (1e-3, 1.0)
    ),
    "timm/sgdp": Algorithm("SGDP with Nesterov momentum", "arXiv 2006.08217", (1e-3, 1.0)),
    "timm/sgdw": Algorithm("SGD with Nesterov momentum and decoupled weight decay", "arXiv 1711.05101", (1e-3, 1.0)),
    "unscaledadamw": Algorithm(
        "Averages normalized gradients, then multiplies by the second moment's root again",
        "https://github.com/HomebrewML/HeavyBall",
        (1e-4, 1.0),
    ),
    "vsgd": Algorithm(
        "SGD with the true gradient inferred from noisy ones by a probabilistic model",
        "https://openreview.net/forum?id=xu4ATNjcdy",
        (1e-3, 1.0),
    ),
    "yogi": Algorithm(
        "Adam whose second moment changes by a limited amount, up or down, in each step",
        "https://papers.nips.cc/paper/8186-adaptive-methods-for-nonconvex-optimization",
        (1e-5, 0.05),
    ),
}
