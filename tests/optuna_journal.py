"""Optuna's own reading of a store's journal."""

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend


def optuna_study(store, name="made_up.tiny"):
    """Return a plan's study."""
    storage = JournalStorage(JournalFileBackend(str(store.folder / "optuna.journal")))
    return optuna.load_study(study_name=name, storage=storage)


def optuna_trials(store, name="made_up.tiny"):
    """Return the trials of a plan's study."""
    return optuna_study(store, name).get_trials()
