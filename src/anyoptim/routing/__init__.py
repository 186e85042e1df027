"""A model's parameters: what each is for, where it goes, and the param groups that come of it."""
