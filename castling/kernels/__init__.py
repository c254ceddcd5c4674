"""Kernels: in C for float32 on the CPU, in Triton for CUDA; paths.py chooses among them."""

from castling.kernels import compiled


__all__ = ["compiled"]
