"""Our own optimizers, written from the papers; each file is one algorithm."""
