"""A verifier that runs in the worker pool and takes its time, so that a kill can meet it."""

import time


def contains_a_one():
    """A reward that an untrained model earns a third of the time: something to learn from the first step."""

    def verify(example, text):
        time.sleep(0.002)
        return float("1" in text)

    return verify
