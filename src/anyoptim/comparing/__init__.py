"""Races between optimizers through the real Trainer: tasks, runs, results and the report of them."""
