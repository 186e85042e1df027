"""What touches other people's training loops; nothing here is imported before it is used."""
