"""The network cut into separately exported components, each with what an exporter must know about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from base.errors import ExportError
from base.lazy import require
from models.spec import ComponentSpec, ModelSpec, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

__all__ = ["CenterPointComponentExtractor", "ExportableComponent"]

# Pillars in the seeded sample of a component whose number of pillars is dynamic. Tracing does not depend on it.
_SAMPLE_VOXELS = 64


@dataclass(frozen=True)
class ExportableComponent:
    """A component ready for the ONNX exporter.

    Attributes:
        spec: Name and tensors; an axis that is None there is dynamic in the graph.
        module: The component in evaluation mode; shares its weights with the model it was cut from.
        sample_inputs: One float32 CPU tensor for each input of `spec`.
    """

    spec: ComponentSpec
    module: nn.Module
    sample_inputs: tuple[Tensor, ...]

    @property
    def name(self) -> str:
        """Name of the component, and the stem of its files."""
        return self.spec.name

    @property
    def file_name(self) -> str:
        """Name of the component's ONNX file."""
        return f"{self.name}.onnx"

    @property
    def input_names(self) -> tuple[str, ...]:
        """Graph inputs in order."""
        return tuple(tensor.name for tensor in self.spec.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Graph outputs in order."""
        return tuple(tensor.name for tensor in self.spec.outputs)

    @property
    def dynamic_axes(self) -> dict[str, dict[int, str]]:
        """Tensor name -> axis -> symbolic name, for tensors that have a dynamic axis."""
        return {
            tensor.name: dict(tensor.axis_names)
            for tensor in (*self.spec.inputs, *self.spec.outputs)
            if tensor.axis_names
        }


class CenterPointComponentExtractor:
    """Cuts a CenterPoint into its exported components and prepares their sample inputs.

    Args:
        model: The stock mmdet3d model, on the CPU.
        spec: What the model config says about it.
        static_voxels: Number of pillars fixed in the voxel encoder's graph (Autoware builds with min = opt = max =
            `max_voxels`); None leaves the axis dynamic.
        seed: Seed of the sample inputs that are not given.
    """

    def __init__(self, model: nn.Module, spec: ModelSpec, *, static_voxels: int | None = None, seed: int = 0) -> None:
        if static_voxels is not None and static_voxels < 1:
            raise ExportError(f"static_voxels is {static_voxels}; it must be a positive number of pillars, or unset.")
        self.model = model
        self.spec = spec
        self.static_voxels = static_voxels
        self.seed = seed

    def extract(self, samples: Mapping[str, npt.NDArray[np.float32]] | None = None) -> tuple[ExportableComponent, ...]:
        """The components in the order in which they run.

        Args:
            samples: Input name -> float32 array, such as `input_features (N, P, F)` of a real frame. An input that is
                left out gets seeded random numbers.

        Raises:
            ExportError: a sample has another shape than the model config implies, or no component has that input.
        """
        from models.components import extract_components

        samples = dict(samples or {})
        modules = extract_components(self.model, self.spec)
        known = [tensor.name for component in self.spec.components for tensor in component.inputs]
        unknown = sorted(set(samples) - set(known))
        if unknown:
            raise ExportError(f"Samples are given for {unknown}, but the components' inputs are {known}.")
        result = []
        for component in self.spec.components:
            fixed = self._fix_voxels(component)
            inputs = tuple(self._sample(tensor, samples.get(tensor.name)) for tensor in fixed.inputs)
            result.append(ExportableComponent(fixed, modules[component.name], inputs))
        return tuple(result)

    def _fix_voxels(self, component: ComponentSpec) -> ComponentSpec:
        """With `static_voxels`, the same component with that number in place of its dynamic axis."""
        if self.static_voxels is None:
            return component

        def fixed(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
            return tuple(
                TensorSpec(t.name, tuple(self.static_voxels if size is None else size for size in t.shape))
                for t in tensors
            )

        return ComponentSpec(component.name, fixed(component.inputs), fixed(component.outputs))

    def _sample(self, tensor: TensorSpec, given: npt.NDArray[np.float32] | None) -> Tensor:
        torch = require("torch", "to trace the model")
        if given is None:
            generator = torch.Generator().manual_seed(self.seed)
            shape = tuple(_SAMPLE_VOXELS if size is None else size for size in tensor.shape)
            sample: Tensor = torch.randn(shape, generator=generator)
            return sample
        fits = given.ndim == len(tensor.shape) and all(
            size is None or size == actual for size, actual in zip(tensor.shape, given.shape, strict=True)
        )
        if not fits or given.size == 0:
            expected = ["any" if size is None else size for size in tensor.shape]
            raise ExportError(
                f"Sample for '{tensor.name}' has shape {list(given.shape)}; the model config implies {expected}, "
                "with at least one pillar. Use the model config that the sample was preprocessed with."
            )
        real: Tensor = torch.from_numpy(given.astype("float32", copy=True))
        return real
