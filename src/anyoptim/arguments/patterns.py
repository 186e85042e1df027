"""Regexes that users give: with the meaning that they have in Python's ``re``, and with an end."""

from __future__ import annotations

import re
from collections.abc import Callable
from time import thread_time

from anyoptim.errors import OptimError
from anyoptim.text import said

SECONDS = 0.4
"""What one pattern may compute for all names of a plan; a name takes some millionths of it."""

_LARGEST = 10_000
_WIDE_SET = 500
"""What a set beyond Latin-1 counts for: ``re`` makes a table of all characters for each."""

# a set or a comment without an end reaches to the end of the text, so that nothing is read twice
_TOKEN = re.compile(
    r"\\N\{[^}]*|\\.|\[\^?\]?(?:\\.?|[^\]\\])*(?:\]|\Z)|\(\?#[^)]*|\(\?[a-zA-Z]*|\{(?:[0-9]+,?[0-9]*|,[0-9]*)\}|.",
    re.DOTALL,
)
_NO_BOUNDARY = r"\B" if re.search(r"\B", "") else r"(?:\B(?!\A\Z))"
"""An empty text has no such place before Python 3.14."""
_IN_SET = re.compile(r"\\.|\[", re.DOTALL)
_BEYOND_LATIN = re.compile(r"[^\x00-\xff]|\\[uUN]")


class Pattern:
    """A regex as ``re`` understands it; ``re`` itself cannot be stopped once it tries every way to match.

    Args:
        text: the regex.
        label: what messages start with: the setting and the pattern.
        kind: the error that is raised for it.

    Raises:
        OptimError: of that kind: it is no regex, or too large to be one for names.
    """

    def __init__(self, text: str, label: str, kind: type[OptimError]) -> None:
        self._label, self._kind, self._left = label, kind, SECONDS
        import regex

        written, size, verbose = _for_regex(text)
        if size > _LARGEST:
            raise kind(f"{label} is too large for a regex of names; write a shorter one, that repeats less.")
        try:
            re.compile(text)
            self._regex = regex.compile(written, regex.VERSION0)
        except (re.error, regex.error, RecursionError, OverflowError) as error:
            why = "it is nested too deeply" if isinstance(error, RecursionError) else said(error)
            raise kind(f"{label} is no valid regex: {why}.") from error
        if verbose:
            raise kind(f"{label} has the flag x; write it without that, on one line and without comments.")

    def matches(self, name: str) -> bool:
        """Whether it matches the whole of a name.

        Raises:
            OptimError: its time is over.
        """
        return self._tried(self._regex.fullmatch, name)

    def finds(self, name: str) -> bool:
        """Whether it matches some part of a name.

        Raises:
            OptimError: its time is over.
        """
        return self._tried(self._regex.search, name)

    def _tried(self, match: Callable[..., object], name: str) -> bool:
        began = thread_time()
        try:
            if self._left > 0:
                return match(name, timeout=self._left) is not None
        except TimeoutError:
            self._left = 0.0
        finally:
            self._left -= thread_time() - began
        raise self._kind(
            f"{self._label} takes over {SECONDS:g} s to be searched for in names; write it without repetitions inside"
            " of or right after each other, such as (a+)+ or .*.*."
        )


def _for_regex(text: str) -> tuple[str, int, bool]:
    """Return how ``regex`` writes what a text means to ``re``, as how many parts it is laid out, and if it is verbose.

    ``{e<=1}`` and ``[[:alpha:]]`` are characters like others to ``re``, and more to ``regex``, which lays out a part
    that has to be there a thousand times a thousand times.
    """
    written: list[str] = []
    open_groups, part, verbose = [0], 0, False
    for token in _TOKEN.findall(text):
        first, out = token[0], token
        if token.startswith("(?#"):
            pass
        elif first == "(":
            open_groups.append(0)
            verbose |= "x" in token
        elif first == ")" and len(open_groups) > 1:
            part = open_groups.pop()
            open_groups[-1] += part
        elif first == "{" and len(token) > 1:
            times = int(token[1:].split(",")[0].rstrip("}")[:9] or 0)
            open_groups[-1] += part * max(times - 1, 0)
            part *= max(times, 1)
        elif first not in "|*+?":
            part = 1
            if first == "{":
                out = r"\{"
            elif token == r"\B":
                out = _NO_BOUNDARY
            elif first == "[":
                out = "[" + _IN_SET.sub(lambda found: found[0] if len(found[0]) > 1 else r"\[", token[1:])
                escapes = {found[1:] for found in _IN_SET.findall(token[1:])}
                if token[1:2] == "^" and any({each, each.upper()} <= escapes for each in "dsw"):
                    out = "(?:(?!))"  # nothing, which `regex` takes for everything
                part = _WIDE_SET if _BEYOND_LATIN.search(token) else len(token)
            open_groups[-1] += part
        written.append(out)
        if max(part, open_groups[-1]) > _LARGEST:
            return "", _LARGEST + 1, verbose
    return "".join(written), sum(open_groups), verbose
