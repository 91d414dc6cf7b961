"""What is the user's to mend: shown as one message, without a traceback."""


class UserError(ValueError):
    """Bad input: the message names the file, the row and column or the option, what came, what was expected."""
