"""What the figures share: sizes, intervals, axes."""

WIDTH = 340  # pixels of a panel; two stand side by side on a laptop
