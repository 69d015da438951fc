"""Every method by which a study's storage is asked waits for a database that is away."""

from __future__ import annotations

import ast
import inspect

import optuna
from optuna.storages import BaseStorage, RDBStorage, _cached_storage

from acsearch.storage.retrying import RetryingStorage

# what nobody calls: acsearch removes no study, and leases say who is alive instead of Optuna's heartbeats
UNUSED = {
    "check_trial_is_updatable",  # looks at its arguments only
    "delete_study",
    "fail_stale_trials",
    "get_best_trial",
    "get_failed_trial_callback",
    "get_heartbeat_interval",
    "get_n_trials",
    "get_trial_id_from_study_id_trial_number",
    "get_trial_number_from_id",
    "get_trial_param",
    "get_trial_params",
    "get_trial_system_attrs",
    "get_trial_user_attrs",
    "record_heartbeat",
    "remove_session",  # closes connections only
    "set_study_system_attr",
    "set_trial_intermediate_value",
    "set_trial_system_attr",
}


def retried() -> set[str]:
    return {name for name, member in vars(RetryingStorage).items() if callable(member) and name != "__init__"}


def test_every_method_is_retried_or_known_to_be_unused() -> None:
    methods = {name for name, member in inspect.getmembers(BaseStorage, callable) if not name.startswith("_")}
    public = {name for name in retried() if not name.startswith("_")}
    assert public.isdisjoint(UNUSED)
    assert methods - public <= UNUSED
    assert methods >= public


def test_what_optuna_s_cache_asks_is_retried() -> None:
    """Optuna puts a cache before a database, which asks for more than the public methods."""
    tree = ast.parse(inspect.getsource(_cached_storage))
    asked = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "_backend"
        and callable(getattr(RDBStorage, node.attr, None))
    }
    assert "_get_trials" in asked
    heartbeats = {"_get_stale_trial_ids", "get_heartbeat_stale_trial_callback"}
    assert asked - retried() <= UNUSED | heartbeats


def test_they_are_optuna_s_own_methods() -> None:
    """With the same arguments, so that a new version of Optuna with others is noticed."""
    for name in retried():
        ours, theirs = getattr(RetryingStorage, name), getattr(optuna.storages.RDBStorage, name)
        if name != "set_trial_state_values":  # which passes on whatever it is given
            assert inspect.signature(ours) == inspect.signature(theirs), name
