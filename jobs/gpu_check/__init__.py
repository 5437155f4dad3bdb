"""A check of the learner (and of vLLM, where it is installed) on the GPU of a bare machine.

Run by cluster/gpu_check.py, without Ray, a store or an environment of ours: of this project's
modules only those are imported that need PyTorch, transformers and DeepSpeed and no more.
"""
