"""The ``anyoptim`` command."""
