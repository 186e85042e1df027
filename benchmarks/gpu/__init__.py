"""What only a GPU can show, measured by ``make gpu``; each section also runs on a CPU, tiny, so that it cannot rot."""
