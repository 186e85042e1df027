"""What was decided, as data, and the one way from it to an optimizer."""
