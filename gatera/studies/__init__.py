"""Studies: what users write, and everything that turns one into a table.

`study` is what a study file states, `catalog` finds it. From there on a folder a chapter: `plan`
lists its trials, `store` keeps what they leave, `workers` run them, started by `launch`; `search`
tunes; `views` show, `run` puts it all to work. What a trial computes is `gatera.training`'s, what
its numbers mean `gatera.reports`'.
"""

from gatera.studies.study import Contrast, Study, Tuning, Variant

__all__ = ["Contrast", "Study", "Tuning", "Variant"]
