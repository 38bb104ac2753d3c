"""Studies: what they are, how they are planned, run, stored and followed."""

from gatera.studies.spec import Study, Tuning, Variant

__all__ = ["Study", "Tuning", "Variant"]
