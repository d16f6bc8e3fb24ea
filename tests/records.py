"""What two runs are compared by: the lines of their metrics."""

TIMED = ("time/", "tokens/")


def untimed(records, *also):
    """The records without what a clock says, and without names that begin with one of `also`."""
    return [{k: v for k, v in r.items() if not k.startswith((*TIMED, *also))} for r in records]
