"""What is shown of a store: progress, forecasts, Optuna's and MLflow's pages.

All are made from the folder and can be made again; nothing is decided by what they say.
`projection` keeps Optuna's and MLflow's up to date while a run goes on.
"""
