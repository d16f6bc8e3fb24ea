"""The decisions of rollout strategies against the numbers of the papers' own code (host code, NumPy)."""

import numpy as np
import pytest

from entjax.rollouts import echo_rules
from entjax.rollouts.agentic import branches as agentic_branches
from entjax.rollouts.agentic import initial_rollouts
from entjax.rollouts.arpo import branches as arpo_branches
from entjax.rollouts.arpo import segment_entropy
from entjax.rollouts.cure import branch_prompt, critical_positions
from entjax.rollouts.tool_light import branch_steps, score
from entjax.rollouts.tree import fork_positions
from entjax.rollouts.votes import count
from tests.golden.harness import golden


@golden("cure")
def test_cure(case):
    x, k = case.x, int(case.x["top_k"])
    special = np.isin(x["tokens"], x["special_ids"])
    admissible = ~special & (x["token_strlen"][x["tokens"]] > 1)
    longest = int(x["max_prompt_len"])
    for row in range(len(x["tokens"])):
        found = critical_positions(x["entropy"][row], admissible[row], k)
        np.testing.assert_array_equal(found, x["out_candidates"][row])
        assert (found[0] == 0) == x["out_fallback"][row]
        prompt = x["prompts"][row][longest - x["prompt_lens"][row] :]
        branch = branch_prompt(prompt, x["tokens"][row], int(x["chosen_idx"][row]), longest)
        pad = [int(x["pad_id"])] * (longest - len(branch))
        np.testing.assert_array_equal(pad + branch, x["out_branch_prompts"][row])
        mask = np.array([0] * len(pad) + [1] * len(branch))
        np.testing.assert_array_equal(mask, x["out_branch_attention_mask"][row])
        np.testing.assert_array_equal(np.maximum(mask.cumsum() - 1, 0), x["out_branch_position_ids"][row])


@golden("arpo_branch")
def test_arpo_branch(case):
    x = case.x
    rise, w, p = (
        x["entropy_now"] - x["entropy_init"],
        float(x["entropy_weight"]),
        float(x["branch_probability"]),
    )
    np.testing.assert_array_equal(arpo_branches(x["u"], rise, w, p), x["out_branch_arpo"])
    np.testing.assert_array_equal(
        agentic_branches(x["u"], rise, x["consecutive"], w, p), x["out_branch_aepo"]
    )
    entropy = -(np.exp(x["seg_top_logprobs"]) * x["seg_top_logprobs"]).sum(1)
    case.close(segment_entropy(entropy, int(x["vocab_size"])), "out_segment_entropy")
    found = initial_rollouts(x["H_root"], x["H_tool"], int(x["n"]), float(x["beta"]))
    np.testing.assert_array_equal(found, x["out_initial_rollouts"])


@golden("ettrl")
def test_ettrl_forks(case):
    """The weights and advantages of the family are consumed by the tests of advantages."""
    x = case.x
    found = fork_positions(x["entropy"], x["mask"] > 0, int(x["n_fork"]))
    np.testing.assert_array_equal(found, x["out_fork_positions"])


@golden("echo_branch")
def test_echo_branch(case):
    x = case.x
    read = {name: x[name].item() for name in echo_rules.EchoRules._fields}
    rules = echo_rules.EchoRules(**read).check()
    stats = echo_rules.statistics(x["top_logprobs"], rules)
    for ours, name in zip(
        stats, ("entropy", "confidence", "group_conf", "tail_conf", "delta_entropy"), strict=True
    ):
        case.close(ours, f"out_{name}")
    at, wide = echo_rules.branch(stats, rules)
    assert (at, wide) == (int(x["out_branch_pos"]), int(x["out_branch_width"]))
    order = np.argsort(-x["top_logprobs"][at], kind="stable")
    np.testing.assert_array_equal(x["top_ids"][at][order][:wide], x["out_branch_tokens"])
    at, reason = echo_rules.prune(stats, rules)
    assert (at >= 0) == bool(x["out_prune"])
    assert (at, reason) == (int(x["out_prune_pos"]), str(x["out_prune_reason"]))


@golden("tool_light")
def test_tool_light(case):
    x = case.x
    tops = [x[f"step{i}_top_logprobs"] for i in range(int(x["n_steps"]))]
    scored = [score(-(np.exp(top) * top).sum(1), x["n_list"].tolist()) for top in tops]
    case.close([s for s, _ in scored], "out_step_score")
    np.testing.assert_array_equal([n for _, n in scored], x["out_step_n"])
    found = branch_steps([s for s, _ in scored], int(x["max_rollout_steps"]))
    np.testing.assert_array_equal(found, x["out_branch_steps"])


@golden("ttrl_vote")
def test_votes(case):
    """The same family as the reward transform, here as the host's vote over more rows than are trained on."""
    x = case.x
    for row, answers in enumerate(x["answers"]):
        found = count([None if a < 0 else str(a) for a in answers])
        assert (-2 if found.label is None else int(found.label)) == x["out_label"][row]
        assert found.ratio == pytest.approx(x["out_majority_ratio"][row], abs=1e-7)
        np.testing.assert_array_equal(found.reward, x["out_rewards_all"][row])
        np.testing.assert_array_equal(found.reward[: int(x["n_samples"])], x["out_rewards"][row])
