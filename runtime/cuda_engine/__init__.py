"""The network from its exported ONNX file as fused kernels of our own, from points to boxes without leaving the GPU.

ONNX ──► NetworkPlan ──► packed weights, buffers, kernels ──► one CUDA graph
         from_onnx        packing, executor                    frame
"""
