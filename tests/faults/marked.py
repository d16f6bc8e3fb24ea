"""`entjax train` of one of the configs in configs.py, which says on a pipe which phase it is in.

    python -m tests.faults.marked NAME STEPS PIPE [entjax train flags ...]

Nothing of the run itself is changed: the functions of each phase are wrapped by one that writes a line first.
"""

import functools
import os
import sys

PIPE = int(sys.argv[3])


def say(word):
    os.write(PIPE, word.encode() + b"\n")


def marking(word, f):
    @functools.wraps(f)
    def marked(*args, **kwargs):
        say(word)
        return f(*args, **kwargs)

    return marked


def main():
    say("start")
    import jax

    from entjax import checkpoint, cli, config, log, setup, train
    from entjax.tasks import scoring
    from tests.faults import configs

    def event(name, **_):
        if name == "/jax/compilation_cache/compile_requests_use_cache":
            say("compile")

    jax.monitoring.register_event_listener(event)
    train.make_batch = marking("rollout", train.make_batch)
    train.Loop._evaluate = marking("evaluate", train.Loop._evaluate)
    scoring.Scorer.submit = marking("reward", scoring.Scorer.submit)
    checkpoint.Checkpoints.save = marking("save", checkpoint.Checkpoints.save)
    log.Lines.write = marking("log", log.Lines.write)
    make_step = setup.make_step
    setup.make_step = lambda *args: marking("update", make_step(*args))
    chosen = getattr(configs, sys.argv[1])(int(sys.argv[2]))
    config.load_config = lambda path: chosen
    return cli.main(["train", __file__, *sys.argv[4:]])


if __name__ == "__main__":
    sys.exit(main())
