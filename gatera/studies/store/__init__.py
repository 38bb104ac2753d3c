"""The folder that holds all that studies produced, and the only truth about it.

`store` opens it, `claims` says who may run what, `attempts` how attempts ended, `results` and
`weights` what they left, `snapshot` where every trial of a plan stands. Who runs trials is in
`workers`, what people look at in `views`.
"""
