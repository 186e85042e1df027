"""A command line that is wrong, as one sentence with what was meant."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

from anyoptim.errors import did_you_mean


class Commands(TyperGroup):
    """The commands of ``anyoptim``; an unknown one is answered with the closest."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first word names."""
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            ctx.fail(f"No such command {args[0]!r}.{did_you_mean(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


def is_usage_error(error: Exception) -> bool:
    """Whether an error is typer's word on the command line: older versions raise those of click."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def usage_sentence(error: Any) -> str:
    """Write such an error as one line: what is wrong, what is close, and where all is listed."""
    context = getattr(error, "ctx", None)
    if context is None:
        return " ".join(error.format_message().split())
    if hasattr(error, "possibilities"):  # an option that there is not
        known = [name for each in context.command.get_params(context) for name in each.opts]
        problem = f"No such option {error.option_name!r}.{did_you_mean(error.option_name, known)}"
    else:
        problem = " ".join(error.format_message().split())
        problem += "" if problem.endswith((".", "?")) else "."
    what = "every command" if isinstance(context.command, TyperGroup) else "what it takes"
    return f"{problem} `{context.command_path} --help` shows {what}."
