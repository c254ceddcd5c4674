"""Kernels in C for float32 on the CPU, compiled for the machine at hand at their first use."""

from castling.kernels import compiled


__all__ = ["compiled"]
