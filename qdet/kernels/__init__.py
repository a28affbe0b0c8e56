"""Operations as Triton kernels: chosen at run time, never needed.

In: an operation that torch runs as many small ones, with its definition in torch beside it. Out: modules with
weights (qdet.layers, qdet.detectors). Importing this imports no Triton.
"""
