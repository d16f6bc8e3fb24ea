"""entjax's peers on the same work: each runs in a process and an environment of its own and does one step when it is told to."""
