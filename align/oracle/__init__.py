"""Exact results by enumeration, in float64, to compare estimators, losses and parts with."""
