"""``python -m anyoptim``."""

from anyoptim.cli.app import main

main()
