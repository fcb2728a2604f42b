"""Providers that are not this library's kernels: torch itself, torch.compile, and other libraries where installed."""
