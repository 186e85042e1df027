"""Text to items, items to typed values, and which source of a value wins."""
