"""Recipes: a paper's method as one composition. Each is a function that returns an Objective.

A docstring starts with "Title (paper): what it does."; "Evidence:" tells what the definition rests on (the authors' code, their
text, or a reconstruction) and "Differs:" how the default departs from what was released. `entjax methods` reads all this.
"""

import inspect

from entjax.recipes import baselines, distillation, rewarding, shaping, terms, tokens
from entjax.recipes.baselines import (
    cispo,
    dapo,
    dr_grpo,
    gmpo,
    gpg,
    grpo,
    grpo_kl,
    gspo,
    luspo,
    mismatch_corrected,
    off_policy_sequences,
    opo,
    otb,
    pass_at_k,
    reinforce,
    reinforce_pp,
    reinforce_pp_baseline,
    remax,
    rloo,
    sapo,
    two_sided,
    vespo,
    w_reinforce,
)
from entjax.recipes.distillation import distill, opd
from entjax.recipes.rewarding import ares, em_rl, empo, empo_reasoning, ettrl, pear, spear, ttrl
from entjax.recipes.shaping import (
    canon,
    canon_dynamic,
    canon_length,
    dcpo,
    dgpo,
    divergence_weights,
    empg,
    entrocraft,
    entropic,
    entropic_balance,
    erpo,
    explore_perplexity,
    explore_position,
    hicra,
    qae,
    rwe,
    seed,
)
from entjax.recipes.terms import (
    aepo,
    dsdr,
    entropy_bonus,
    entropy_pi,
    entropy_trl,
    epo,
    full_kl,
    kl_adaptive,
    kl_cov,
    kl_target,
    lp_reg,
    safe,
    siren,
    skywork,
    t1,
    targeted_entropy,
    tea,
)
from entjax.recipes.tokens import (
    agentic_aepo,
    attention_entropy,
    clip_b,
    clip_cov,
    clip_v,
    echo,
    entropy_budget,
    forking_tokens,
    hapo,
    steer,
    steer_exact,
    steer_released,
)


def names() -> list[str]:
    """All recipes, in the order in which they are written."""
    files = (baselines, terms, tokens, shaping, rewarding, distillation)
    found = [
        [f for f in vars(file).values() if inspect.isfunction(f) and f.__module__ == file.__name__]
        for file in files
    ]
    return [f.__name__ for file in found for f in sorted(file, key=lambda f: f.__code__.co_firstlineno)]
