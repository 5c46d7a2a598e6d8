"""Exact answers by enumeration, in float64, that estimators, losses and parts are measured against."""
