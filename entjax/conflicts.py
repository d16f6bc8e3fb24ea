"""Mistakes of composition, found when a chain is built: what cannot work raises, what fights warns, each with the reason."""

from __future__ import annotations

import warnings

from entjax.control import Controller

WHY_ONE_OWNER = {
    "baseline": "each computes the group advantage anew, so the first would be overwritten",
    "entropy": "two entropy controllers pull one policy towards two targets",
    "clip": "each sets the clip range, so the first would be overwritten",
    "scale": "each sets the averaging weights, so the first would be overwritten",
    "kl": "two controllers of the KL penalty fight over one divergence",
    "reward": "each replaces the reward, so the first would be overwritten",
}

# Two methods that treat the same tokens in opposite or doubled ways (names of transforms, reason).
FIGHTS = (
    ({"steer", "forking_tokens"}, "80/20 keeps exactly the tokens that STEER damps"),
    ({"steer", "clip_cov"}, "both damp the same high-covariance tokens"),
    ({"steer", "kl_cov"}, "both damp the same high-covariance tokens"),
    ({"clip_cov", "kl_cov"}, "both treat the same high-covariance tokens"),
    ({"forking_tokens", "clip_cov"}, "low-entropy tokens get no gradient after 80/20 anyway"),
    ({"forking_tokens", "kl_cov"}, "low-entropy tokens get no gradient after 80/20 anyway"),
    ({"forking_tokens", "lp_reg"}, "low-entropy tokens get no gradient after 80/20 anyway"),
    ({"aepo", "reject_mismatch"}, "rejection drops the tempered samples by which AEPO regulates entropy"),
    ({"aepo", "importance"}, "the weights undo the tempered distribution by which AEPO regulates entropy"),
    ({"tea", "clip_cov"}, "TEA rewards the tokens that Clip-Cov drops"),
    ({"tea", "kl_cov"}, "TEA rewards the tokens that KL-Cov holds back"),
    ({"ear", "agentic_advantage"}, "one favours low, the other high entropy: they roughly cancel"),
    ({"ear", "echo_shaping"}, "one favours low, the other high entropy: they roughly cancel"),
    ({"empg", "entropy_bonus"}, "EMPG holds back the high-entropy tokens that the entropy bonus raises"),
    ({"empg", "hapo_redistribution"}, "EMPG holds back the high-entropy tokens that HAPO raises"),
    ({"empg", "agentic_advantage"}, "EMPG holds back the high-entropy tokens that agentic AEPO raises"),
    ({"hapo_redistribution", "entropy_bonus"}, "both raise the advantage of high-entropy tokens"),
    ({"hapo_redistribution", "agentic_advantage"}, "both scale the advantage by 1 + a * entropy"),
    ({"erpo", "agentic_advantage"}, "both scale the advantage by the standardised entropy"),
    ({"erpo", "entropy_bonus"}, "both raise the advantage of high-entropy tokens"),
    (
        {"erpo", "dgpo"},
        "both divide one advantage among the tokens by entropy and distance from the reference",
    ),
    ({"erpo", "hicra"}, "both divide one advantage among the tokens, by different signals"),
    ({"hapo_redistribution", "hicra"}, "planning tokens are uncertain: both raise their advantage"),
    ({"hapo_redistribution", "echo_shaping"}, "both scale the advantage by 1 + a * entropy"),
    ({"hicra", "entropy_bonus"}, "planning tokens are uncertain: both raise their advantage"),
    *(
        ({"dgpo", name}, "DGPO replaces the KL penalty")
        for name in ("kl", "full_kl", "kl_reward", "safe", "ares_kl")
    ),
    ({"agentic_advantage", "echo_shaping"}, "both scale the advantage by 1 + a * z(entropy)"),
    (
        {"clip_b", "lp_reg"},
        "Clip_B drops most tokens that Lp-Reg would hold up; put Clip_B first so Lp-Reg sees the survivors",
    ),
    (
        {"quantile", "entropic"},
        "the quantile baseline leaves one sign per group: EntroPIC's actuator loses authority",
    ),
    (
        {"entrocraft", "entropic"},
        "the sign filter leaves one sign per batch: EntroPIC's actuator loses authority",
    ),
    (
        {"quantile", "entropic_balance"},
        "the quantile baseline leaves one sign per group: the balance has nothing to weigh",
    ),
    ({"replay_baseline", "entropic"}, "replayed rows are all positive: EntroPIC's actuator loses authority"),
    (
        {"replay_baseline", "entropic_balance"},
        "replayed rows are all positive: the balance has nothing to weigh",
    ),
    ({"empo", "seed"}, "both reward agreement of the same answer clusters: it counts twice"),
    (
        {"pear", "entropy_bonus"},
        "PEAR pays for low entropy in the reasoning that the bonus pays for high entropy",
    ),
    ({"pear", "entropic"}, "PEAR pushes entropy down whatever EntroPIC's target"),
    ({"pear", "siren"}, "PEAR pushes entropy down, SIREN holds it up"),
    ({"pear", "pass_at_k"}, "the best sample of a group is then the one with the calmest reasoning"),
    ({"em_rl", "entropy_bonus"}, "EM-RL pays for the low entropy that the bonus pays to raise"),
    ({"em_rl", "siren"}, "EM-RL pushes entropy down, SIREN holds it up"),
    *(
        (
            {name, "zero_variance"},
            f"{name} gives groups of equal outcomes something to learn, and this drops them",
        )
        for name in ("dsdr", "pear", "ares_reward")
    ),
    *(
        ({"pass_at_k", name}, "pass@k leaves no negative advantage, and it acts on nothing else")
        for name in ("clip_b", "clip_v", "lp_reg")
    ),
)

# Chain order where the other one runs but means something else (what must come first, names; what after; reason).
ADDED = frozenset({"entropy_bonus", "explore_position"})
SCALED = frozenset(
    {"seed", "explore_perplexity", "hicra", "dgpo", "hapo_redistribution", "ear", "agentic_advantage", "echo_shaping",
     "erpo", "divergence_weights"}
)  # fmt: skip
LATE = (
    (SCALED, ADDED, "it would scale a bonus that is meant as it is"),
    (
        frozenset({"zero_variance"}),
        frozenset({"empg"}),
        "its mean counts the groups that are dropped after it",
    ),
    (
        SCALED | ADDED | {"empg", "dcpo"},
        frozenset({"entrocraft"}),
        "the sign filter has to see the final advantage",
    ),
)


def steered(*values) -> frozenset[str]:
    """What a transform with these hyperparameters owns beside: "entropy" if a Controller, fed with the entropy, drives one."""
    return frozenset({"entropy"} if any(isinstance(value, Controller) for value in values) else ())


def check(parts) -> None:
    """Raise or warn for the members of a chain, in their order."""
    _unique_names(parts)
    _one_owner(parts)
    _order(parts)
    _fights(parts)


def check_whole(parts) -> None:
    """What only a complete objective can get wrong."""
    check(parts)
    writer = next((part.name for part in parts if "reward" in part.writes), None)
    if writer and not any("baseline" in part.owns for part in parts):
        raise ValueError(
            f"'{writer}' writes the reward, but nothing turns it into an advantage: add advantages.group_normalize() after it, "
            "or advantages.raw() for the reward itself."
        )


def _unique_names(parts) -> None:
    seen = set()
    for part in parts:
        if part.name in seen:
            raise ValueError(
                f"A chain holds '{part.name}' twice: give one another name with rename('other_name', ...)."
            )
        seen.add(part.name)


def _one_owner(parts) -> None:
    owner: dict[str, str] = {}
    for part in parts:
        for what in sorted(part.owns):
            if what in owner:
                why = WHY_ONE_OWNER.get(what, "only one transform of a chain may decide it")
                raise ValueError(
                    f"'{owner[what]}' and '{part.name}' both own '{what}': {why}. Keep one of them."
                )
            owner[what] = part.name


def _order(parts) -> None:
    seen: dict[
        str, str
    ] = {}  # what an earlier member has done: "reward", "advantage", "clip", "scale" ... -> its name
    for part in parts:
        for undone, what in _undoes(part):
            if undone in seen:
                raise ValueError(f"'{part.name}' {what.format(seen[undone])}")
        seen.update({f"saw {what}": part.name for what in part.sees})
        if "reward" in part.writes:
            seen["reward"] = part.name
        if "baseline" in part.owns:
            seen["baseline"] = part.name
        elif "advantage" in part.writes and "reward" not in part.writes:
            seen["advantage"] = part.name
        if "clip_low" in part.writes and "clip" not in part.owns:
            seen["clip"] = part.name
        if "scale" in part.owns:
            seen["scale"] = part.name


def _undoes(part):
    """(what must not have happened before this member, the sentence with the name of the one who did it)."""
    if "baseline" in part.owns:
        yield (
            "advantage",
            "computes the advantage from the reward and would undo '{}' before it: put it first.",
        )
        yield "saw advantage", "sets the advantage that '{}' before it has already looked at: put it before."
    if "reward" in part.writes:
        yield "baseline", "changes the reward after '{}' has turned it into an advantage: put it before."
    if "reward" in part.owns:
        yield "reward", "replaces the reward and would undo '{}' before it: put it first."
    if "mask" in part.writes:
        yield "scale", "removes tokens from the averages after '{0}' has computed them: put '{0}' last."
    if "clip" in part.owns:
        yield "clip", "sets the clip range and would undo what '{0}' did to it: put '{0}' after it."
        yield (
            "saw clip",
            "sets the clip range that '{0}' before it has already looked at: put '{0}' after it.",
        )


def _fights(parts) -> None:
    names = {part.method for part in parts}
    for pair, why in FIGHTS:
        if pair <= names:
            first, second = sorted(pair)
            _warn(f"'{first}' and '{second}' in one chain: {why}.")
    order = [part.method for part in parts]
    for first, after, why in LATE:
        for name in after & names:
            for late in (late for late in order[order.index(name) :] if late in first):
                _warn(f"'{late}' comes after '{name}': {why}. Put '{late}' before it.")
    for part in parts:
        if "advantage" in part.writes and (early := _looked(parts, part)):
            _warn(
                f"'{part.name}' changes the advantage that '{early}' before it has already looked at: put it before."
            )
        if part.method == "group_normalize" and "dsdr" in names and part.hyper.get("std") is False:
            _warn(
                "'dsdr' with 'group_normalize(std=False)': lambda_d is negligible unless the group's spread divides it."
            )


def _looked(parts, late) -> str | None:
    """The first member before `late` that has looked at the advantage without writing it."""
    before = parts[: parts.index(late)]
    return next((part.name for part in before if "advantage" in part.sees), None)


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=5)
