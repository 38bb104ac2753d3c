"""Studies: what they are, how they are planned, run, stored and followed."""

from gatera.studies.spec import Study, Variant

__all__ = ["Study", "Variant"]
