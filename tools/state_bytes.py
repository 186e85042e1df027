"""Writes how many bytes of state each name keeps for a parameter, for its page: ``make state-bytes``, ten minutes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from anyoptim.errors import OptimError
from anyoptim.integrations.models import meta_model
from anyoptim.names.lookup import optimizer_info
from anyoptim.names.registry import list_optimizers
from anyoptim.planning.plan import plan
from anyoptim.planning.suggestions import suited_arguments

FILE = Path(__file__).parent.parent / "docs" / "state_bytes.json"
MODEL = "tiny-llama"


def main() -> None:
    """Plan each name on a small Llama in float32; what cannot be planned here keeps what stands in the file."""
    warnings.simplefilter("ignore")
    found: dict[str, float] = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name in list_optimizers(installed=True):
        if not optimizer_info(name).is_wrapper and not name.startswith("example_"):
            value = of_each(name)
            if value is not None:
                found[name] = value
    FILE.write_text(json.dumps(dict(sorted(found.items())), indent=0) + "\n")


def of_each(name: str) -> float | None:
    """Return the bytes of state for each parameter, to three digits; ``None`` if they are not known."""
    model = meta_model(MODEL, "float32")
    model.set_attn_implementation("eager")  # what differentiates gradients needs it
    try:
        state = plan(name, model, suited_arguments(name, width=model.config.hidden_size)).state_bytes
    except OptimError:
        return None
    count = sum(each.numel() for each in model.parameters())
    return None if state is None else float(f"{state / count:.3g}")


if __name__ == "__main__":
    main()
