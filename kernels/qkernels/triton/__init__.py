"""Triton kernels, one per file: the kernel, its launcher, its provider."""
