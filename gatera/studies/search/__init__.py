"""Tuning carried out: `search` asks Optuna what to try, `tuner` tries it on a store.

What is tuned, and within which range, is part of the plan (`plan.tuning`).
"""
