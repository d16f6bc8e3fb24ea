"""Comparisons and verdicts of the study on made-up runs whose answers are known."""

import json
import math

import numpy as np
import pytest

from entjax.studies import claims, compare, page


def run(arm, seed, passes, entropies, *, target=None, curve=None, pass32=None):
    """A result with evaluations at given pass@1 and entropies."""
    pass32 = pass32 or [0.9] * len(passes)
    points = [
        {
            "step": 20 * i,
            "pass@1": p,
            "pass@4": p,
            "pass@16": q,
            "pass@32": q,
            "distinct_correct": 2.0,
            "entropy": h,
        }
        for i, (p, h, q) in enumerate(zip(passes, entropies, pass32, strict=True))
    ]
    curve = list(np.linspace(entropies[0], entropies[-1], 40)) if curve is None else curve
    about = {"setting": "easy", "arm": arm, "warm": 0, "seed": seed, "steps": 40, "prompts": 4, "samples": 4, "lr": 1e-4,
             "eval_prompts": 8, "options": {}, "target": target}  # fmt: skip
    return about | {"evaluations": points, "entropy": curve, "reward": [0.5] * len(curve),
                    "seconds": {"rollout": 0.1, "update": 0.1 if arm == "grpo" else 0.2}}  # fmt: skip


def test_a_run_is_stopped_between_its_evaluations():
    found = compare.stopped(run("grpo", 0, [0.4, 0.6, 0.7], [0.3, 0.2, 0.1], pass32=[1.0, 0.9, 0.7]), 0.15)
    assert found is not None
    np.testing.assert_allclose([found["pass@1"], found["pass@32"]], [0.65, 0.8])
    assert compare.stopped(run("grpo", 0, [0.4, 0.6], [0.3, 0.2]), 0.15) is None
    assert (
        compare.stopped(run("grpo", 0, [0.4, 0.6], [0.3, 0.2]), 0.35)["pass@1"] == 0.4
    )  # already there at the start


def test_a_twin_is_read_off_the_line_through_its_evaluations():
    x = np.array([0.2, 0.4, 0.3, 0.6])
    twin = run(
        "grpo",
        0,
        list(x),
        [0.4, 0.3, 0.2, 0.1],
        pass32=list(0.9 - 0.5 * x + np.array([0.01, -0.01, 0.01, -0.01])),
    )
    a, b = np.linalg.lstsq(
        np.stack([x, np.ones(4)], 1), [p["pass@32"] for p in twin["evaluations"]], rcond=None
    )[0]
    for level in (0.25, 0.6, 0.79):
        np.testing.assert_allclose(compare.on_line(twin, "pass@1", level, "pass@32"), a * level + b)
    for level in (0.81, -0.01):
        assert math.isnan(compare.on_line(twin, "pass@1", level, "pass@32"))


def test_what_does_nothing_seems_to_lose_less_on_a_line_than_at_first_passage():
    """Noisy copies of a noisy curve. The line has a bias too, half as large: noise in pass@1 flattens it."""
    rng = np.random.default_rng(0)

    def noisy(arm, seed):
        x = np.linspace(0.13, 0.2, 6)
        y = 0.8 - 2.2 * (x - 0.13) + 0.02 * rng.normal(size=6)
        return run(
            arm, seed, list(x + 0.01 * rng.normal(size=6)), list(np.linspace(0.3, 0.2, 6)), pass32=list(y)
        )

    def at_first(a, b):
        x, y = (np.array([p[m] for p in b["evaluations"]]) for m in ("pass@1", "pass@32"))
        passed = np.flatnonzero(x >= compare.final(a)["pass@1"])
        if not len(passed):
            return math.nan
        i = passed[0]
        return np.interp(compare.final(a)["pass@1"], x[i - 1 : i + 1], y[i - 1 : i + 1]) if i else y[0]

    runs = [noisy(arm, seed) for seed in range(600) for arm in ("grpo", "safe")]
    pairs = compare.twins(runs, "safe")
    on_line = compare.gain_at(pairs, "pass@1", "pass@32")
    first = compare.spread([compare.final(a)["pass@32"] - at_first(a, b) for a, b in pairs])
    assert abs(compare.gain(pairs, "pass@32").mean) < 0.004  # nothing to be found
    assert on_line.n > 550 and abs(on_line.mean) < 0.013 and first.mean < -abs(on_line.mean) - 0.01


def test_gains_are_paired_and_leave_out_what_the_twin_never_reached():
    base = [run("grpo", s, [0.4, 0.6 + 0.01 * s], [0.3, 0.1]) for s in range(3)]
    arm = [run("steer", s, [0.4, 0.5 + 0.01 * s], [0.3, 0.2], pass32=[0.9, 0.95]) for s in range(2)]
    far = [run("steer", 2, [0.4, 0.9], [0.3, 0.2])]
    pairs = compare.twins([*base, *arm, *far], "steer")
    assert len(pairs) == 3 and all(a["seed"] == b["seed"] for a, b in pairs)
    np.testing.assert_allclose(compare.gain(pairs[:2], "pass@1").mean, -0.1)
    found = compare.gain_at(pairs, "pass@1", "pass@32")
    assert found.n == 2
    np.testing.assert_allclose([found.mean, found.error], [0.05, 0.0], atol=1e-12)


def test_spread_smooth_distance():
    found = compare.spread([1.0, 2.0, 3.0, float("nan")])
    np.testing.assert_allclose([found.mean, found.error], [2.0, 1 / math.sqrt(3)])
    assert (found.n, str(compare.spread([]))) == (3, "-")
    np.testing.assert_allclose(found.margin, 4.302653 / math.sqrt(3), rtol=1e-6)  # t_2 at .975, from a table
    assert math.isinf(compare.spread([1.0, 1.1]).margin)
    np.testing.assert_allclose(compare.smooth([1.0, 3.0, 5.0, 7.0], 2), [1, 2, 4, 6])
    steady = run("aepo", 0, [0.4, 0.5], [0.3, 0.2], target=0.2, curve=[0.3] * 10 + [0.21] * 40)
    np.testing.assert_allclose(compare.distance(steady), 0.05)
    assert math.isnan(compare.distance(run("grpo", 0, [0.4], [0.3])))
    line = np.linspace(
        0.4, 0.2, 50
    )  # 6% above a line is 6% away, although the line falls under the smoothing
    decays = run("entropic_decay", 0, [0.4, 0.5], [0.3, 0.2], target=[0.4, 0.2], curve=list(1.06 * line))
    np.testing.assert_allclose(compare.distance(decays), 0.06)


@pytest.mark.parametrize("ends,want", [([0.6, 0.61, 0.62], claims.HOLDS), ([0.3, 0.31, 0.32], claims.FAILS),
                                       ([0.4, 0.5, 0.6], claims.UNSEEN), ([0.6, 0.61], claims.UNSEEN),
                                       ([0.51, 0.53, 0.55], claims.UNSEEN)])  # fmt: skip
def test_a_verdict_needs_three_pairs_and_an_interval_without_0(ends, want):
    pairs = [
        r
        for s, end in enumerate(ends)
        for r in (run("grpo", s, [0.4, 0.5], [0.3, 0.1]), run("siren", s, [0.4, end], [0.3, 0.2]))
    ]
    assert claims.more("pass@1")(pairs, "siren")[1] == want


def test_the_law_is_found_in_runs_that_follow_it():
    h = np.linspace(0.3, 0.05, 60)
    follows = run(
        "grpo", 0, [0.8 - 0.3 * math.exp(x) for x in (0.3, 0.1, 0.05)], [0.3, 0.1, 0.05], curve=list(h)
    )
    follows["reward"] = list(0.8 - 0.3 * np.exp(h))
    found = claims.law(follows)
    np.testing.assert_allclose([found["per step"], found["evaluations"]], 1.0, atol=1e-9)
    assert found["forecast"] < 1e-3  # means of ten steps bend e^H a little
    assert claims.follows_law([follows], "grpo")[1] == claims.HOLDS


def test_the_page_is_written_from_the_json_alone(tmp_path):
    runs = [run(arm, s, [0.4, 0.6], [0.3, 0.1 if arm == "grpo" else 0.18], target=None if arm == "grpo" else 0.18)
            for arm in ("grpo", "entropy_budget") for s in range(3)]  # fmt: skip
    runs += [run("qae", s, [0.4, 0.5 + 0.01 * s], [0.3, 0.1]) | {"recipe": "qae"} for s in range(3)]
    (tmp_path / "study.json").write_text(json.dumps({"runs": runs}))
    again = page.collect(tmp_path / "no-cells", tmp_path / "study.json")
    assert sorted(map(json.dumps, again)) == sorted(map(json.dumps, runs))
    page.write(again, tmp_path)
    text = (tmp_path / "study.md").read_text()
    rows = dict(line.strip("| ").split(" | ") for line in page.short(runs, ["easy"]).splitlines())
    assert rows["beside GRPO"] == "easy (2 arms)"
    assert rows["less pass@1"] == "qae -0.090" and rows["more pass@1 at the end"] == "none"
    assert rows["more entropy at the end"] == "entropy_budget +0.080"
    assert (
        rows["less pass@32 at equal pass@1"] == "none"
    )  # the twin is there between two evaluations, with the same 0.9
    assert page.short(runs, ["easy"]) in text
    assert "| entropy_budget | 3 | 0.600 ± 0.000 |" in text
    assert "| qae | advantage, clip | 3 | 0.510 ± 0.006 |" in text
    assert "| **-0.090 ± 0.006** | +0.000 ± 0.000 |" in text  # clear, and none
    assert "Too few runs" in page.family(runs[:-2], ["qae"]) and "Too few runs" not in text
    assert (tmp_path / "images" / "study-easy-entropy.png").stat().st_size > 10_000
    assert (tmp_path / "images" / "study-easy-family.png").stat().st_size > 10_000


def test_ahead_counts_a_twin_that_never_came_so_far_by_its_end():
    """One twin passes pass@1 0.5 with a pass@32 of 0.8, the other ends at 0.45 with 0.7; the arm has 0.85 at 0.5."""
    twins = [
        run("grpo", 0, [0.4, 0.6], [0.3, 0.1], pass32=[0.9, 0.7]),
        run("grpo", 1, [0.4, 0.45], [0.3, 0.1], pass32=[0.9, 0.7]),
    ]
    arm = [run("siren", s, [0.4, 0.5], [0.3, 0.2], pass32=[0.9, 0.85]) for s in range(2)]
    pairs = compare.twins([*twins, *arm], "siren")
    found, ends = compare.ahead(pairs)
    np.testing.assert_allclose([found.mean, found.n, ends], [(0.05 + 0.15) / 2, 2, 1])
    assert compare.gain_at(pairs, "pass@1", "pass@32").n == 1
    above = compare.twins([*twins, run("siren", 0, [0.4, 0.2], [0.3, 0.2])], "siren")
    assert compare.ahead(above)[0].n == 0  # a twin that was never so low says nothing


def test_beyond_holds_only_where_every_rival_is_behind():
    ends = {"grpo": 0.6, "steer": 0.7, "entropy_budget_anchored": 0.8}
    runs = [
        run(arm, s, [0.4, 0.5 + 0.001 * s], [0.3, 0.2], pass32=[0.9, end + 0.001 * s])
        for arm, end in ends.items()
        for s in range(3)
    ]
    ask = lambda *rivals: claims.beyond(rivals)(runs, "entropy_budget_anchored")
    text, said = ask("grpo", "steer")
    assert said == claims.HOLDS and "grpo +0.200" in text and "steer +0.100" in text
    assert ask("grpo", "entropy_budget_anchored")[1] == claims.UNSEEN
    assert claims.beyond(("entropy_budget_anchored", "grpo"))(runs, "steer")[1] == claims.FAILS
    assert ask("kl_cov")[1] == claims.UNSEEN  # which has no runs
    low = [run("aepo", s, [0.3, 0.35], [0.3, 0.2], pass32=[0.9, 0.6 + 0.001 * s]) for s in range(3)]
    text, said = claims.beyond(("aepo",))([*runs, *low], "entropy_budget_anchored")
    assert said == claims.HOLDS and "+0.200 ± 0.000 (the end of 3 that never came so far)" in text


def test_a_difference_has_to_lie_outside_of_what_arms_show_that_end_as_grpo_does():
    """GRPO's three runs were lucky: six arms that do nothing all lie 0.02 to 0.03 below them at equal pass@1, and so does qae."""
    jitter = (-0.004, 0.0, 0.004)
    passes, entropies = [0.4, 0.5], [0.3, 0.1]
    runs = [run("grpo", s, passes, entropies, pass32=[0.9, 0.8]) for s in range(3)]
    names = ("safe", "rloo", "opo", "dgpo", "dcpo", "tea")

    def lower(arm, by, last, spread=1.0):
        return [
            run(arm, s, passes, [0.3, last], pass32=[0.9, 0.8 - by + spread * jitter[s]]) for s in range(3)
        ]

    for i, name in enumerate(names):
        runs += lower(name, 0.02 + 0.002 * i, 0.1, spread=9.0)
    runs += lower("qae", 0.025, 0.15) + lower("siren", 0.06, 0.2) + lower("luspo", -0.03, 0.2)
    asked = lambda pairs: compare.gain_at(pairs, "pass@1", "pass@32")
    like = compare.alike(runs)
    assert sorted(p[0][0]["arm"] for p in like) == sorted(names)
    error = compare.error_of(asked, like)
    np.testing.assert_allclose(error, (-0.03, -0.02), atol=1e-9)
    found = {arm: asked(compare.twins(runs, arm)) for arm in ("qae", "siren", "luspo")}
    assert [compare.told(f, error) for f in found.values()] == [0, -1, 1]
    assert compare.told(found["qae"]) == -1  # which the interval alone would name
    assert compare.error_of(asked, like[:4]) == (0.0, 0.0)
    said = claims.more_at("pass@1", "pass@32")(runs, "qae")
    assert said[1] == claims.UNSEEN and "-0.025" in said[0]
    text = page.nothing(runs)
    assert "the 6 arms that end as GRPO does have at equal pass@1 -0.025 pass@32 in the mean" in text
    assert "0.000 off its own line." in text  # which goes through both of its evaluations


def test_the_anchor_is_looked_at_early_and_late_on_the_seeds_of_all_four():
    seeds = {arm: range(3 + i) for i, arm in enumerate(page.ANCHORS)}
    runs = [
        run(arm, s, [0.4, 0.5, 0.6 + 0.1 * (s > 2)], [0.3, 0.2, 0.1])
        for arm in page.ANCHORS
        for s in seeds[arm]
    ]
    text = page.anchored(runs)
    assert text.startswith("3 seeds of GRPO") and "pass@32, step 20" in text
    assert text.count("| 0.500 ± 0.000 | 0.900 ± 0.000 | 0.200 ± 0.000 | 0.600 ± 0.000 |") == 4
    assert "| *warm start* | 0.400 ± 0.000 |" in text
    apart = [r | {"warm": i} for i, r in enumerate(runs)]
    assert page.anchored(apart) == "No seed has run with all four yet."
