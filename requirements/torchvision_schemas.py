"""Declares the two operators that torchvision needs beside a CPU build of torch.

Not part of the project: requirements/install.py copies this file into .venv's site-packages, and a
.pth file there imports it at every start of Python, which costs one list entry.

PyPI's torchvision is built for CUDA. Its compiled operators do not load beside a CPU torch, which
torchvision allows for, except that it gives shapes for two of them ("operator torchvision::nms does
not exist"). Declared here between its look for the operators and that; never called, since no
image processor uses them. Nothing is imported unless somebody imports torchvision, and a
torchvision whose own operators load is left alone.
"""

import sys


class DeclareBeforeShapes:
    """A finder that finds nothing: it is asked just before the module that needs the operators."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Declare what is missing when the turn of that module comes."""
        if name == "torchvision._meta_registrations":
            sys.meta_path.remove(DeclareBeforeShapes)
            if not sys.modules["torchvision.extension"]._has_ops():
                from torch.library import define

                for operator in ("nms", "qnms"):
                    schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                    define(f"torchvision::{operator}", schema)


sys.meta_path.insert(0, DeclareBeforeShapes)
