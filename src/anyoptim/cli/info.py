"""``anyoptim info``: what one name means."""

from __future__ import annotations

from anyoptim.cli.beside import MOST, beside
from anyoptim.cli.list import spec_summary
from anyoptim.cli.output import print_json, print_rich
from anyoptim.cli.parameters import AsJson, Names
from anyoptim.errors import OptimError
from anyoptim.names.hyperparameters import REQUIRED, Hyperparameter
from anyoptim.names.lookup import optimizer_info
from anyoptim.names.spec import OptimizerSpec
from anyoptim.text import plain

EXAMPLES = (
    "anyoptim info apollo_adamw",
    "anyoptim info 'lookahead(lion)'",
    "anyoptim info muon normuon",
    "anyoptim info timm/lamb --json",
)


def info_command(names: Names, as_json: AsJson = False) -> None:
    """Show what a name means: hyperparameters, implementations, paper, licence. Of several names, how they differ."""
    specs = [optimizer_info(each) for each in names]
    if as_json:
        found = [spec_details(each) for each in specs]
        return print_json(found[0] if len(found) == 1 else found)
    if len(specs) == 1:
        return _print_one(specs[0])
    if len(specs) > MOST:
        raise OptimError(f"{len(specs)} names do not stand side by side: give at most {MOST}, or take --json.")
    print_rich(beside(specs))


def _print_one(spec: OptimizerSpec) -> None:
    from rich.table import Table
    from rich.text import Text

    from anyoptim.arguments.keys import options_of
    from anyoptim.arguments.values import type_name

    print_rich(Text.assemble((spec.name, "bold"), f": {spec.summary}"))
    facts = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    facts.add_row("aliases", ", ".join(spec.aliases) or "-")
    facts.add_row("paper", spec.paper or "-")
    if spec.usual_lr:
        facts.add_row("usual lr", f"{spec.usual_lr[0]:g} to {spec.usual_lr[1]:g}")
    facts.add_row("traits", ", ".join(spec.trait_names) or "-")
    for implementation in spec.implementations:
        licence = implementation.licence or "licence not stated"
        state = "installed" if implementation.installed else f"not installed: {implementation.pip_install}"
        default = ", the default" if implementation is spec.default else ""
        facts.add_row(
            implementation.name,
            f"{implementation.class_path} of {implementation.package} ({licence}), {state}{default}",
        )
    for limit, reason in sorted(spec.default.may_fail.items()):
        facts.add_row("limit", f"{limit}: {reason}")
    if spec.default.unusable:
        facts.add_row("limit", f"cannot train here: {spec.default.unusable}")
    if spec.is_wrapper:
        facts.add_row("use it as", f"{spec.name}(adamw_torch), around any other name; its arguments as below")
    print_rich(facts)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("optim_args", "type", "default", "meaning"):
        table.add_column(column, no_wrap=column != "meaning")
    options = () if spec.is_wrapper else options_of(spec.default)
    prefix = f"{spec.name}_" if spec.is_wrapper else ""
    for each in (*spec.hyperparameters, *options):
        table.add_row(f"{prefix}{each.name}", type_name(each.type), str(plain(each.default)), _meaning(each))
    print_rich(table)


def _meaning(hyperparameter: Hyperparameter) -> str:
    parts = [hyperparameter.help, str(hyperparameter.within or "")]
    if hyperparameter.scope == "target":
        parts.append("target modules only")
    return "; ".join(part for part in parts if part)


def spec_details(spec: OptimizerSpec) -> dict[str, object]:
    """Return all that a spec says, as plain values."""
    from anyoptim.arguments.values import type_name

    return {
        **spec_summary(spec),
        "paper": spec.paper,
        "usual_lr": spec.usual_lr,
        "traits": spec.trait_names,
        "implementations": [
            {
                "name": each.name,
                "class": each.class_path,
                "package": each.package,
                "licence": each.licence,
                "installed": each.installed,
                "install": each.pip_install,
                "limits": dict(each.may_fail),
            }
            for each in spec.implementations
        ],
        "hyperparameters": [
            {
                "name": each.name,
                "type": type_name(each.type),
                "default": None if each.default is REQUIRED else plain(each.default),
                "required": each.default is REQUIRED,
                "range": str(each.within or ""),
                "scope": each.scope,
                "help": each.help,
            }
            for each in spec.hyperparameters
        ],
    }
