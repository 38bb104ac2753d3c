"""Who runs trials: a `worker` claims one, an `attempt` runs it in a process of its own.

`fitness` checks the machine first, `stalls` watches what stands still, `pool` keeps a run's workers
alive. How a trial is trained and scored is `gatera.training`'s.
"""
