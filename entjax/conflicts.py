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
    ({"hicra", "entropy_bonus"}, "planning tokens are uncertain: both raise their advantage"),
    ({"dgpo", "kl"}, "DGPO replaces the KL penalty"),
    ({"dgpo", "full_kl"}, "DGPO replaces the KL penalty"),
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
    shaped = scaled = baseline = bounded = None
    for part in parts:
        if "baseline" in part.owns:
            if shaped:
                raise ValueError(
                    f"'{part.name}' computes the advantage from the reward and would undo '{shaped}' before it: put it first."
                )
            baseline = part.name
        elif "reward" in part.writes and baseline:
            raise ValueError(
                f"'{part.name}' changes the reward after '{baseline}' has turned it into an advantage: put it before."
            )
        if "advantage" in part.writes and "baseline" not in part.owns and "reward" not in part.writes:
            shaped = part.name
        if "mask" in part.writes and scaled:
            raise ValueError(
                f"'{part.name}' removes tokens from the averages after '{scaled}' has computed them: put '{scaled}' last."
            )
        if "clip" in part.owns and bounded:
            raise ValueError(
                f"'{part.name}' sets the clip range and would undo what '{bounded}' did to it: put '{bounded}' after it."
            )
        if "clip_low" in part.writes and "clip" not in part.owns:
            bounded = part.name
        if "scale" in part.owns:
            scaled = part.name


def _fights(parts) -> None:
    names = {part.name for part in parts}
    for pair, why in FIGHTS:
        if pair <= names:
            first, second = sorted(pair)
            warnings.warn(f"'{first}' and '{second}' in one chain: {why}.", UserWarning, stacklevel=4)
