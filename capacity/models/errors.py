"""What is raised where a model cannot be had or used."""


class ModelError(ValueError):
    """A model that cannot be had, or cannot be used: says what was given, what is allowed, what to do."""
