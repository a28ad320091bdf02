"""How many tokens and bits an optimised input vector holds."""
