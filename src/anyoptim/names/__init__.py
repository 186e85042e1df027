"""What a name means: specs as data, the registry of them, and the packages behind them."""
