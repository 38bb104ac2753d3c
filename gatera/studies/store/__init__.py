"""The folder that holds all that studies produced, and the only truth about it.

`store` opens it and commits results, `claims` takes and ends the right to run a trial, `attempts`
says how attempts ended, `results` and `weights` what they left, `index` what was read of it before,
`snapshot` where every trial of a plan stands. Who runs trials is in `workers`, what people look at
in `views`.
"""
