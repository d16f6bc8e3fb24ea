"""What every strategy promises: full groups, masks where its docstring says, statistics that a plain forward confirms, and
tokens that are those of plain groups wherever nothing was branched."""

import dataclasses

import numpy as np
import pytest

import entjax as ej
from entjax.rollouts import (
    EchoRules,
    agentic,
    arpo,
    cure,
    echo,
    groups,
    multi_turn,
    silent,
    stateless,
    tool_light,
    tree,
    votes,
)
from entjax.setup import batches
from tests.rollouts import world

RULES = EchoRules(
    entropy_high=1.2, branch_threshold=2.5, entropy_low=0.3, entropy_delta_threshold=0.0, min_depth=1
)
STEPS = silent(",", "=")
BRANCHING = {
    "tree": tree(forks=2, branches=2),
    "cure": cure(branches=4, k=3, characters=1),
    "arpo": arpo(STEPS),
    "agentic": agentic(STEPS),
    "echo": echo(RULES),
    "tool_light": tool_light(STEPS, counts=(2, 4)),
}
NOT_BRANCHING = {
    "tree": tree(forks=0),
    "cure": cure(branches=0),
    "arpo": arpo(STEPS, initial=world.SAMPLES, beam=1),
    "agentic": agentic(STEPS, monitor=False, initial=world.SAMPLES, beam=1),
    "echo": echo(RULES._replace(min_branches=1, max_branches=1), prune=False),
    "tool_light": tool_light(STEPS, steps=0),
    "multi_turn": multi_turn(STEPS),
    "votes": votes(world.SAMPLES),
}
FIELDS = ("tokens", "mask", "logp", "entropy", "sampled_logp", "prompt_length", "length", "finished", "group")


@pytest.mark.parametrize("name", NOT_BRANCHING)
def test_without_branches_it_is_plain_groups_bit_for_bit(name):
    plain = world.collect(groups())
    other = world.collect(NOT_BRANCHING[name])
    longest = int(plain.completions.length.max())
    for field in FIELDS:
        a, b = (np.asarray(getattr(h.completions, field)) for h in (plain, other))
        a, b = (x[:, :longest] if x.ndim == 2 else x for x in (a, b))
        # where the first row of a group is sampled before the others, the batch is another and so are the last bits of floats
        atol = 1e-5 if name in ("echo", "tool_light") and a.dtype.kind == "f" else 0
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=f"{name} {field}")
    assert plain.texts == other.texts
    if name != "votes":
        np.testing.assert_array_equal(plain.reward, other.reward)


@pytest.mark.parametrize("name", BRANCHING)
def test_branches_are_full_groups_of_the_policy(name):
    harvest = world.collect(BRANCHING[name])
    world.check(harvest)
    again = world.collect(BRANCHING[name])
    np.testing.assert_array_equal(harvest.completions.tokens, again.completions.tokens)
    other = world.collect(BRANCHING[name], step=1)
    assert (harvest.completions.tokens[:, :40] != other.completions.tokens[:, :40]).any()
    if "sampling/branches" in harvest.metrics:
        assert harvest.metrics["sampling/branches"] > 0
    assert harvest.metrics["sampling/computed_share"] < 1


def shared(c, a, b):
    """Length of the common prefix of two rows."""
    differ = np.flatnonzero(c.tokens[a] != c.tokens[b])
    return int(differ[0]) if len(differ) else int(min(c.length[a], c.length[b]))


def forks_of(c, trunk, count):
    """The tokens of highest entropy of a row; the end of the prompt where it has fewer."""
    at = np.flatnonzero(c.mask[trunk])
    best = at[np.argsort(-c.entropy[trunk, at], kind="stable")[:count]].tolist()
    return best + [int(c.prompt_length[trunk])] * (count - len(best))


def test_tree_forks_where_the_entropy_of_the_trunk_is_highest():
    c = world.collect(tree(forks=2, branches=2)).completions
    for prompt in range(4):
        rows = np.flatnonzero(c.group == prompt)
        for number, trunk in enumerate(rows[:2]):
            for branch in range(4):
                row = rows[2 + 4 * number + branch]
                fork = forks_of(c, trunk, 2)[branch // 2]
                np.testing.assert_array_equal(c.tokens[row, :fork], c.tokens[trunk, :fork])
                np.testing.assert_allclose(c.logp[row, :fork], c.logp[trunk, :fork], atol=0)
                assert c.mask[
                    row, c.prompt_length[row] : c.length[row]
                ].all()  # the shared prefix is in every leaf's loss
                assert c.length[row] > fork


def test_a_tree_of_sixteen_leaves_computes_at_most_sixty_percent():
    """Rows of one length, as the paper counts: with forks spread evenly (1 + 15 / 2) / 16 = 53% are expected."""
    tools = world.tools(samples=16)
    stepper = tools.stepper._replace(sampler=tools.stepper.sampler._replace(eos_ids=()))
    harvest = tree(forks=3, branches=5)(tools._replace(stepper=stepper), world.examples(8), 0, {})
    c = harvest.completions
    held = int((c.length - c.prompt_length).sum())
    # counted here by hand: the trunk, and of each branch what lies behind its fork
    computed = 0
    for prompt in range(8):
        trunk, *branches = np.flatnonzero(c.group == prompt)
        forks = forks_of(c, trunk, 3)
        computed += c.mask[trunk].sum() + sum(
            int(c.length[row] - forks[i // 5]) for i, row in enumerate(branches)
        )
    assert harvest.metrics["sampling/tokens_computed"] == computed
    assert harvest.metrics["sampling/computed_share"] == pytest.approx(computed / held)
    assert computed <= 0.6 * held


def test_rows_of_like_length_end_together():
    """Rows of one length forked at many places: in waves of 16 the batches hold fewer rows that have ended."""
    tools, work = world.tools(samples=16), []
    sampler = tools.stepper.sampler._replace(eos_ids=())

    def counted(params, state, count, window):
        work[-1] += len(state.length) * int(count)
        return sampler.device.decode(params, state, count, window)

    watched = sampler._replace(device=sampler.device._replace(decode=counted))
    texts = []
    for wave in (16, 1000):
        work.append(0)
        stepper = tools.stepper._replace(sampler=watched, wave=wave, compact=128)
        stepper = stepper._replace(how=dataclasses.replace(stepper.how, stop_strings=("$$",)))
        stepper = stepper._replace(sampler=watched._replace(shapes=watched.shapes._replace(block=1)))
        harvest = tree(forks=3, branches=5)(tools._replace(stepper=stepper), world.examples(8), 0, {})
        texts.append(harvest.texts)
    assert texts[0] == texts[1]
    assert work[0] < 0.75 * work[1], work


def test_cure_branches_before_a_critical_token_and_masks_the_prefix():
    k = 3
    harvest = world.collect(cure(branches=4, k=k, characters=1))
    c = harvest.completions
    new = world.config().max_new_tokens
    for prompt in range(4):
        rows = np.flatnonzero(c.group == prompt)
        for number, root in enumerate(rows[:2]):
            assert c.mask[root].sum() == c.length[root] - c.prompt_length[root]
            start, end = int(c.prompt_length[root]), int(c.length[root])
            written = [
                i for i in range(start + 1, end) if world.parts().tokenizer.decode([c.tokens[root, i]])
            ]
            best = sorted(written, key=lambda i: -c.entropy[root, i])[:k]
            fork = {int(np.flatnonzero(c.mask[row])[0]) for row in rows[2 + 4 * number : 6 + 4 * number]}
            assert len(fork) == 1 and fork <= {*best, *([start] if not written else [])}
            for row in rows[2 + 4 * number : 6 + 4 * number]:
                at = min(fork)
                np.testing.assert_array_equal(c.tokens[row, :at], c.tokens[root, :at])
                assert c.mask[row].sum() == c.length[row] - at <= new
    later = world.collect(cure(branches=4, k=k, characters=1, until=0))
    np.testing.assert_array_equal(later.completions.tokens, world.collect(groups()).completions.tokens)


def test_cure_without_admissible_tokens_samples_the_prompt_again():
    c = world.collect(cure(branches=4)).completions  # no token of this alphabet has two characters
    np.testing.assert_array_equal(c.mask.sum(1), c.length - c.prompt_length)
    assert len({tuple(row) for row in c.tokens[c.group == 0].tolist()}) > 2


def test_arpo_with_weight_zero_tosses_a_coin():
    """w = 0: every try succeeds with probability p, so p = 0 leaves restarts only and p = 1 fills the group at once."""
    never = world.collect(arpo(STEPS, initial=2, probability=0.0, weight=0.0))
    assert never.metrics["sampling/branches"] <= 1  # u = 0 has probability 0 but for rounding
    assert never.metrics["sampling/restarts"] >= 4 * 8 - 1
    assert never.metrics["sampling/computed_share"] == 1.0
    always = world.collect(arpo(STEPS, initial=2, probability=1.0, weight=0.0))
    assert always.metrics["sampling/branches"] > 8 and always.metrics["sampling/computed_share"] < 0.95


def test_arpo_copies_share_their_prefix_and_its_loss():
    harvest = world.collect(arpo(STEPS, initial=1, probability=1.0))
    c, turn = harvest.completions, harvest.extra["turn"]
    assert (turn[c.mask] >= 0).all() and (turn[~c.mask] == -1).all()
    pairs = [(a, b) for a in range(10) for b in range(a) if shared(c, a, b) > c.prompt_length[a]]
    assert pairs
    for a, b in pairs:
        n = shared(c, a, b)
        np.testing.assert_array_equal(c.mask[a, :n], c.mask[b, :n])


def test_echo_starts_branches_with_the_likeliest_tokens():
    harvest = world.collect(echo(RULES, prune=False))
    c = harvest.completions
    forced = (
        (np.arange(c.tokens.shape[1])[None] >= c.prompt_length[:, None])
        & (np.arange(c.tokens.shape[1])[None] < c.length[:, None])
        & ~c.mask
    )
    assert forced.sum() == harvest.metrics["sampling/branches"] > 0
    for row in np.flatnonzero(forced.any(1)):
        at = int(np.flatnonzero(forced[row])[0])
        base = int(np.flatnonzero(c.group == c.group[row])[0])
        np.testing.assert_array_equal(c.tokens[row, :at], c.tokens[base, :at])
        assert c.tokens[row, at] != c.tokens[base, at]
        rank = (
            world.policy(c.tokens[row, : at + 1])[at]
            > world.policy(c.tokens[row, : at + 1])[at, c.tokens[row, at]]
        ).sum()
        assert rank < RULES.max_branches
        assert c.logp[row, at] == 0


def test_no_echo_branch_shares_what_was_given_up_or_starts_with_an_end():
    """With much pruning every branch still holds the token that it was started with, and nothing is sampled behind an EOS."""
    wide = RULES._replace(prune_threshold=2.1, min_depth=3, max_branches=12, min_branches=8)
    eos, branches, pruned = world.parts().tokenizer.eos_id, 0, 0
    for step in range(3):
        harvest = world.collect(echo(wide), step=step)
        c = harvest.completions
        position = np.arange(c.tokens.shape[1])[None]
        inside = (position >= c.prompt_length[:, None]) & (position < c.length[:, None])
        assert (inside & ~c.mask).sum() == harvest.metrics["sampling/branches"]
        before_last = inside & (position < c.length[:, None] - 1)
        assert not (before_last & (c.tokens == eos)).any()
        branches, pruned = (
            branches + harvest.metrics["sampling/branches"],
            pruned + harvest.metrics["sampling/pruned"],
        )
    assert branches >= 3 and pruned >= 3
    with pytest.raises(ValueError, match="windows"):
        echo(RULES._replace(group_window=0))


@pytest.mark.parametrize("name", ["cure", "arpo", "agentic", "tree"])
def test_rows_do_not_depend_on_how_many_are_sampled_at_once(name):
    """`sampler_rows` may change when a run goes on, so it must not change what is sampled."""
    whole, blocks = (world.collect(BRANCHING[name], sampler_rows=rows) for rows in (1024, world.SAMPLES))
    assert whole.texts == blocks.texts
    np.testing.assert_array_equal(whole.completions.mask.sum(1), blocks.completions.mask.sum(1))


def test_prompts_without_room_are_refused_before_anything_is_sampled():
    long = [e._replace(prompt=(e.prompt * 12)[:80]) for e in world.examples()]
    for strategy in (groups(), tree(forks=2, branches=2), multi_turn(STEPS)):
        with pytest.raises(ValueError, match="exceed the model's context of 96"):
            strategy(world.tools(), long, 0, {})


def test_the_environment_is_part_of_what_was_run():
    runs = [multi_turn(silent(",")), multi_turn(silent("7")), multi_turn(silent("7", turns=1))]
    runs += [agentic(silent(",")), agentic(silent("7")), arpo(silent(",")), arpo(silent("7"))]
    assert len({str(world.config(strategy=strategy).identity()) for strategy in runs}) == len(runs)
    with pytest.raises(ValueError, match="needs monitor=False"):
        agentic(silent(","), initial=3)


def test_numbers_of_rows_that_are_compiled_are_few():
    """A batch as it is; what is drawn again in sizes of which there are two an octave, at most half more than asked for."""
    bucket = batches(world.config(prompts=24, samples=10))
    assert [bucket(n) for n in (24, 240, 1, 2, 3, 5, 6, 7, 100, 200)] == [24, 240, 1, 2, 3, 6, 6, 8, 128, 256]
    sizes = {bucket(n) for n in range(1, 513)}
    assert len(sizes) < 24 and all(n <= bucket(n) <= 1.5 * n for n in range(1, 2000))


def test_echo_cuts_what_lost_its_confidence():
    sure = RULES._replace(prune_threshold=5.0)
    harvest = world.collect(echo(sure))
    base = [int(np.flatnonzero(harvest.completions.group == g)[0]) for g in range(4)]
    assert (harvest.completions.mask[base].sum(1) == 1).all()  # confidence below 5 from the first token on
    assert harvest.metrics["sampling/pruned"] >= 3
    with pytest.raises(ValueError, match="no branch could start"):
        echo(EchoRules(entropy_high=3.5, branch_threshold=1.2))


def test_votes_replace_the_reward_and_keep_the_first():
    strategy = votes(16)
    tools = world.tools()._replace(canonical=lambda example, text: text[:1] or None)
    harvest = strategy(tools, world.examples(), 0, {})
    full = groups()(tools._replace(samples=16), world.examples(), 0, {})
    world.check(harvest)
    for prompt in range(4):
        answers = [t[:1] for t in full.texts[16 * prompt : 16 * prompt + 16]]
        most = max((a for a in answers if a), key=lambda a: (answers.count(a), -answers.index(a)))
        want = [float(t[:1] == most) for t in full.texts[16 * prompt : 16 * prompt + 10]]
        assert harvest.reward[10 * prompt : 10 * prompt + 10].tolist() == want
    with pytest.raises(ValueError, match="raise voters"):
        world.collect(votes(4))


def test_rows_that_do_not_fit_are_told_by_the_config():
    for strategy, samples in ((tree(forks=2, branches=2), 8), (cure(), 6)):
        with pytest.raises(ej.config.ConfigError, match="choose a multiple"):
            world.config(strategy=strategy, samples=samples)
    with pytest.raises(ej.config.ConfigError, match="belongs to plain groups"):
        world.config(strategy=tree(), dynamic_sampling=2)
    assert world.config(strategy=tree(), samples=10).rows == 40


def test_a_plain_function_is_a_strategy():
    def mine(tools, examples, step, knobs):
        return groups()(tools, examples, step, knobs)

    assert world.config(strategy=mine).rows == 40
    assert (
        world.collect(mine).texts
        == world.collect(stateless("mine", mine)).texts
        == world.collect(groups()).texts
    )


@pytest.mark.parametrize(
    "strategy", [tree(forks=2, branches=2), arpo(STEPS), echo(RULES)], ids=lambda s: s.name
)
def test_the_last_rows_are_decoded_by_themselves(strategy):
    """Small batches for what is still running change no token, and fewer row-steps are computed."""
    tools = world.tools()
    plain = strategy(tools, world.examples(), 0, {})
    sampler, steps = tools.stepper.sampler, []

    def counted(params, state, count, window):
        steps.append(len(state.length) * int(count))
        return sampler.device.decode(params, state, count, window)

    small = sampler._replace(
        device=sampler.device._replace(decode=counted), shapes=sampler.shapes._replace(block=4)
    )
    work = {}
    for compact, wave in ((8, 256), (10**6, 256), (10**6, 8)):
        steps.clear()
        stepper = tools.stepper._replace(sampler=small, compact=compact, wave=wave)
        # a stop string that never comes keeps both runs in blocks
        stepper = stepper._replace(how=dataclasses.replace(stepper.how, stop_strings=("$$",)))
        harvest = strategy(tools._replace(stepper=stepper), world.examples(), 0, {})
        np.testing.assert_array_equal(harvest.completions.tokens, plain.completions.tokens)
        np.testing.assert_array_equal(harvest.completions.mask, plain.completions.mask)
        np.testing.assert_allclose(harvest.completions.logp, plain.completions.logp, atol=1e-5)
        work[compact, wave] = sum(steps)
    assert work[8, 256] < 0.9 * work[10**6, 256], work


def test_strategies_by_name(capsys):
    """strategy=NAME strategy.OPTION=VALUE is the strategy of a config file; what cannot be told that way gets a sentence."""
    c = world.config()
    named = c.override(
        {"strategy": "cure", "strategy.branches": "4", "strategy.k": "3", "strategy.characters": "1"}
    )
    assert named.identity() == world.config(strategy=cure(branches=4, k=3, characters=1)).identity()
    assert c.override({"strategy": "replay", "strategy.size": "24"}).rows == 64
    assert c.override({"strategy": groups()}).rows == 40
    for changes, said in [
        ({"strategy": "cur"}, "did you mean 'cure'"),
        (
            {"strategy": "arpo"},
            "needs environment, which only a config file can hold: strategy=ej.rollouts.arpo",
        ),
        (
            {"strategy": "cure", "strategy.beam": "4"},
            "no option beam for the command line; it takes branches, k",
        ),
        ({"strategy": "replay", "strategy.inner": "tree"}, "no option inner"),
        ({"strategy": "cure", "strategy.k": "0"}, "k >= 1"),
        ({"strategy": "cure", "strategy.branches": "2"}, "choose a multiple"),
        ({"strategy": "cure", "strategy.k": "many"}, "strategy.k=many: expected int"),
        ({"strategy.k": "3"}, "add strategy=NAME"),
    ]:
        with pytest.raises(ej.config.ConfigError, match=said):
            c.override(changes)
