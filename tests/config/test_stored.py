"""Stored configurations: their fingerprint, and the first field in which two differ."""

import copy

import pytest

from configs import default
from eanet.config import rules, stored


def another(value):
    """Some other value of the same type; whether it is sensible does not matter here."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (*value, "more")
    return value + ("x" if isinstance(value, str) else 1)


def with_change(flat_field):
    config = default.get_config().to_dict()
    *groups, name = flat_field.split(".")
    group = config
    for part in groups:
        group = group[part]
    group[name] = another(group[name])
    return config


def test_fingerprint_is_eight_digits_that_change_with_any_field():
    fields = list(rules.RULES)
    prints = [stored.fingerprint(with_change(field)) for field in fields]
    prints.append(stored.fingerprint(default.get_config().to_dict()))
    assert len(set(prints)) == len(fields) + 1
    assert all(len(digits) == 8 and int(digits, 16) >= 0 for digits in prints)
    assert prints[-1] == stored.fingerprint(copy.deepcopy(default.get_config().to_dict()))


def test_fingerprint_does_not_depend_on_the_order_of_fields():
    config = default.get_config().to_dict()
    turned = dict(reversed(config.items()))
    assert list(turned) != list(config)
    assert stored.fingerprint(turned) == stored.fingerprint(config)


@pytest.mark.parametrize("field", rules.RULES)
def test_first_difference_names_a_field_with_an_effect_and_only_such(field):
    ours, theirs = default.get_config().to_dict(), with_change(field)
    assert ours != theirs
    difference = stored.first_difference(ours, theirs)
    if field in ("data.dir", "data.streaming") or field.startswith(("guard.", "checkpoint.", "inspect.", "wandb.")):
        assert difference is None
    else:
        value, other = (rules.flatten(config)[field] for config in (ours, theirs))
        assert difference == f"config.{field} is {other!r} there and {value!r} here"


def test_first_difference_takes_a_recorded_field_that_is_missing_as_its_default():
    ours, theirs = default.get_config().to_dict(), default.get_config().to_dict()
    del theirs["model"]["gelu"], theirs["vary"]
    assert stored.first_difference(ours, theirs) is None
    ours["model"]["gelu"] = "erf"
    assert stored.first_difference(ours, theirs) == "config.model.gelu is 'tanh' there and 'erf' here"


def test_flatten_joins_names_with_dots():
    assert rules.flatten({"a": 1, "b": {"c": {"d": (2,)}, "e": 3}}) == {"a": 1, "b.c.d": (2,), "b.e": 3}
