"""The one error a user can cause."""


class InputError(ValueError):
    """Wrong input: one sentence that names the thing, the value and the way out."""
