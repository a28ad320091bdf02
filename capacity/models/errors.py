"""What is raised where a model cannot be had or used."""


class ModelError(ValueError):
    """A model that cannot be had, or cannot be used: says what was given, what is allowed, what to do."""


def first_line(error: Exception) -> str:
    """Return the first line of what an exception says, cut to 200 characters; its type's name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
