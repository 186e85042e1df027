"""The conformance kit: whether an optimizer keeps what its name promises, for us and for authors of plug-ins."""

from anyoptim.testing.kit import CHECKS, Report, Verdict, check_optimizer

__all__ = ["CHECKS", "Report", "Verdict", "check_optimizer"]
