"""The real benchmarks: one file a family, with a table of its tasks.

`files` reads splits below a data root, `hub` fetches them where there is none, `instructions` knows
the format of LLM-Adapters. What a task is says `gatera.tasks.task`.
"""
