"""Reports: plans and results in, tables and figures out."""
