"""Who runs trials: a `worker` claims one and starts a process for it, which runs an `attempt`.

The attempt trains, scores and commits the result, or says how it failed. `shared_memory` keeps such
processes small, `fitness` checks the machine first, `stalls` watches what stands still, `pool`
keeps a run's workers alive. How a trial is trained and scored is `gatera.training`'s.
"""
