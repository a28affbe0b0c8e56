"""What runs on the GPU. In: programs, which import Triton. Out: shapes, choices, autograd (qdet.kernels)."""
