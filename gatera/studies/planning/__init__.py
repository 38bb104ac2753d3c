"""From a study to its trials, in plain values.

`enumeration` lists the trials; what goes into them comes from `configuration` (settings), `sources`
and `planned_data` (files), and `tuning` (what is searched). `confounds` keeps rows comparable,
`gpu_cost` computes what they would take. Nothing here runs, or knows of a store.
"""
