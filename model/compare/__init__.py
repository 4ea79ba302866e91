"""Comparisons: data sets x protocols x models x seeds, cell by cell, to one report."""
