"""Quality: raw tables of a source to clean canonical tables, with a count of every rule and the rows refused."""

from kg.quality.check import Checked, check, clean
from kg.quality.policy import Outside, Policy
from kg.quality.report import Report

__all__ = ["Checked", "Outside", "Policy", "Report", "check", "clean"]
