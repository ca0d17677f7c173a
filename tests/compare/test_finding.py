"""The sentence that says what a comparison has found."""

import re

import pytest

from eanet.compare.finding import finding
from helpers.finished_runs import read_comparison, write_arm

_BASE = {0: 0.4, 1: 0.42, 2: 0.44}
_BETTER = {0: 0.5, 1: 0.525, 2: 0.54}
_WORSE = {0: 0.3, 1: 0.3175, 2: 0.34}


@pytest.mark.parametrize(
    "arms, said",
    [
        (  # by hand: differences 10, 10.5 and 10 points; deviation 0.2887, half-width 4.3027 · 0.2887 / √3 = 0.717
            {"eanet": _BASE, "vit": _BETTER},
            "In test accuracy attention=self is 10.17 points ahead of attention=external (95% interval +9.45 to "
            "+10.88, p < 0.001, n = 3); not matched: parameters 1.72×, MMAC 4.16× the baseline's.",
        ),
        (
            {"eanet": {0: 0.4, 1: 0.42}, "vit": {0: 0.43, 1: 0.44}},
            "These seeds cannot tell attention=self from attention=external in test accuracy: +2.50 points (95% "
            "interval -3.85 to +8.85, p = 0.126, n = 2); only a true difference of 8.17 points or more would be likely "
            "to be seen.",
        ),
        (
            {"eanet": {0: 0.4, 1: 0.42}, "vit": {0: 0.43, 1: 0.49}, "none": {0: 0.4, 1: 0.41}},
            "These seeds cannot tell any of 2 arms from the baseline in test accuracy: the largest difference "
            "seen: attention=self is "
            "5.00 points ahead of attention=external (95% interval -20.41 to +30.41, Holm-corrected p = ",
        ),
        (
            {"eanet": {0: 0.4}, "vit": {0: 0.38}},
            "One seed gives no p-value over seeds: attention=self is 2.00 points behind attention=external in test "
            "accuracy here, and other seeds may turn that round.",
        ),
        (
            {"eanet": _BASE, "vit": {0: 0.38}, "none": {0: 0.39}},
            "One seed gives no p-value over seeds: the largest difference is that attention=self is 4.00 points ",
        ),
        (
            {"eanet": {0: 0.4, 1: 0.41}, "vit": {0: 0.42, 1: 0.43}},
            "The differences do not vary between seeds, so that there is no test of them: attention=self is 2.00 ",
        ),
        ({"eanet": {0: 0.4}}, "all runs: test accuracy 40.00% (one seed has no interval); there is no other arm to "),
        (
            {"eanet": {0: 0.01, 1: 0.03}},
            "all runs: test accuracy 2.00% (95% interval 0.00% to 14.71%, n = 2); there is",
        ),
    ],
)
def test_the_sentence_follows_from_the_statistics(tmp_path, arms, said):
    for arm, accuracies in arms.items():
        write_arm(tmp_path, arm, accuracies)
    sentence = finding(read_comparison(tmp_path))
    assert sentence.startswith(said) and sentence.endswith(".")


def test_of_many_groups_the_furthest_are_named(tmp_path):
    for heads, accuracies in {2: _BASE, 4: {0: 0.4, 1: 0.4225, 2: 0.43}, 8: _BETTER, 16: _WORSE}.items():
        write_arm(tmp_path, "eanet", accuracies, model__num_heads=heads)
    write_arm(tmp_path, "vit", {0: 0.6, 1: 0.6225, 2: 0.64}, model__num_heads=4)
    write_arm(tmp_path, "none", {0: 0.7})
    sentence = finding(read_comparison(tmp_path, baseline="model.num_heads=2"))
    assert sentence.startswith(
        "In test accuracy 3 of 5 arms differ from the baseline (2 ahead, 1 behind); the furthest: "
    )
    ways = re.findall(r"(attention=[^;]*?) is \S+ points (ahead of|behind) ", sentence)
    assert ways == [("attention=self, num_heads=4", "ahead of"), ("attention=external, num_heads=16", "behind")]
    assert "Holm-corrected p" in sentence and sentence.endswith(
        "arms of one seed, or without variation, have no p-value over seeds."
    )
