"""Whole models: how fast they run, and how right they stay."""
