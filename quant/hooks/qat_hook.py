"""Quantization-aware training as a hook of mmengine's Runner.

    custom_hooks = [dict(type="QATHook", calibration_batches=100, sensitive_layers=[])]
    load_from = "best.pth"
    optim_wrapper = dict(optimizer=dict(lr=0.0001))
    train_cfg = dict(max_epochs=10)

in a config on top of one of `configs/model`, for any of mmengine's ways to train: `python -m training.train`, mmdet3d's
tools/train.py, `Runner.from_cfg`. The result is `<work_dir>/quantized.pth`, which deploys.

Replacing modules changes parameters: folding BatchNorm gives a convolution a bias and takes two vectors away. An
optimizer, a learning-rate schedule, a DDP wrapper and an averaged model (EMA) that were made from the float model would
go on holding what is no longer there. The Runner builds the first three before any hook runs. So this hook works in
`before_run`, ahead of every other hook, and then has the Runner build those again from its config; the weights of
`load_from` are read before folding, since they are those of the float model.
"""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner.loops import EpochBasedTrainLoop
from torch import nn

from base.errors import CheckpointError, ConfigError
from models.build import load_checkpoint
from models.spec import ModelSpec
from quant.calibration.calibrator import CalibrationManager
from quant.fusion.bn_fusion import fuse_model_bn
from quant.hooks.batch_norm import BN_MODES, fold_trained_bn, freeze_bn_
from quant.hooks.runner_model import unwrapped_model
from quant.hooks.schedule import fine_tuning_schedule
from quant.quantizer import named_quantizers
from quant.replace import quant_model
from training.packed import check_packed

if TYPE_CHECKING:
    from mmengine.runner import Runner

    from quant.structure import QuantizationStructure

__all__ = ["QATHook"]

_STRUCTURE_KEY = "quantization"
_SCHEDULES = ("fine_tune", "config")

_logger = logging.getLogger(__name__)


@HOOKS.register_module()
class QATHook(Hook):
    """Quantizes the Runner's model before training and calibrates it.

    Attributes:
        structure: What was quantized; None before `before_run`.
    """

    # Ahead of EMAHook, which copies the model in its own `before_run`.
    priority = "VERY_HIGH"

    def __init__(
        self,
        calibration_batches: int = 100,
        calibration_epoch: int = 0,
        bn: str = "fold",
        freeze_bn: bool | None = None,
        sensitive_layers: Sequence[str] = (),
        amax_method: str = "mse",
        engine: str = "pytorch_quantization",
        model_config: str | None = None,
        data_root: str | None = None,
        schedule: str = "fine_tune",
        output: str | None = "quantized.pth",
    ) -> None:
        """Checks the settings.

        Args:
            calibration_batches: Batches that the scales come from: frames of `model_config`, or the training loader's.
            calibration_epoch: Epoch before which calibration runs; earlier epochs train in floating point (on the
                folded or frozen network).
            bn: "fold": BatchNorm becomes part of the convolutions before training, as in deployment. "freeze": it
                stays with fixed statistics and parameters. "train": it goes on learning, and is folded at the end.
            freeze_bn: Another name for `bn`: True is "freeze", False is "train".
            sensitive_layers: Layers that stay in floating point: module paths or glob patterns.
            amax_method: See `CalibrationManager`.
            engine: Quantizer engine.
            model_config: Model config whose test pipeline the calibration frames go through; unset: the file that the
                Runner's config came from. Of a config that is in no file, frames come from the training loader, with
                its augmentation.
            data_root: Dataset folder of those frames; unset: that of the Runner's training frames.
            schedule: "fine_tune": the optimizer's rate is the largest (`quant.hooks.schedule`), over all of this
                training. "config": the config's `param_scheduler`; one that was made for a training from scratch names
                the rates of that, whatever the optimizer's is.
            output: File for the trained model, relative to the work dir; None: none is written.

        Raises:
            ConfigError: a setting is out of range, or `bn` and `freeze_bn` contradict each other.
        """
        if freeze_bn is not None:
            named = "freeze" if freeze_bn else "train"
            if bn not in ("fold", named):
                raise ConfigError(f"QATHook: bn='{bn}' contradicts freeze_bn={freeze_bn}, which is bn='{named}'.")
            bn = named
        if bn not in BN_MODES:
            raise ConfigError(f"QATHook: bn is '{bn}'; it is one of {', '.join(BN_MODES)}.")
        if calibration_batches < 1:
            raise ConfigError(f"QATHook: calibration_batches is {calibration_batches}; give 1 or more.")
        if schedule not in _SCHEDULES:
            raise ConfigError(f"QATHook: schedule is '{schedule}'; it is one of {', '.join(_SCHEDULES)}.")
        if calibration_epoch < 0:
            raise ConfigError(f"QATHook: calibration_epoch is {calibration_epoch}; give 0 or more.")
        self.calibration_batches = calibration_batches
        self.calibration_epoch = calibration_epoch
        self.bn = bn
        self.sensitive_layers = tuple(sensitive_layers)
        self.amax_method = amax_method
        self.engine = engine
        self.model_config = model_config
        self.data_root = data_root
        self.schedule = schedule
        self.output = output
        self.structure: QuantizationStructure | None = None

    def before_run(self, runner: Runner) -> None:
        """Loads the float weights, quantizes, and has optimizer, schedule and wrapper built again.

        Raises:
            ConfigError: there is no checkpoint to start from, the Runner was not made from a config, its frames are
                not packed, or calibration comes after the last epoch.
            CheckpointError: the checkpoint does not fit the float model.
        """
        _check_buildable(runner)
        check_packed(runner)
        if self.calibration_epoch >= runner.max_epochs:
            raise ConfigError(
                f"QATHook: calibration_epoch is {self.calibration_epoch}, but the training ends after "
                f"{runner.max_epochs} epochs: nothing would be calibrated."
            )
        model = unwrapped_model(runner)
        device = next(model.parameters()).device
        model.cpu()
        if not runner._resume:
            if runner._load_from is None:
                raise ConfigError("QATHook: training starts from a trained float model; set load_from (--checkpoint).")
            load_checkpoint(model, runner._load_from)
            # The weights are in place, in another structure than the file's.
            runner._has_loaded = True
        model.eval()
        if self.bn == "fold":
            fuse_model_bn(model)
        self.structure = quant_model(model, self.sensitive_layers, engine=self.engine)
        if self.bn == "freeze":
            freeze_bn_(model)
        for quantizer in named_quantizers(model).values():
            quantizer.enabled = False
        # `init_weights`, which the Runner calls next, must leave trained weights alone.
        model._is_init = True
        model.to(device).train()
        _rebuild(runner, model, self.schedule)
        names = [layer.path for layer in self.structure.layers if layer.quantized]
        runner.logger.info(f"QATHook: {len(names)} layers quantized, BatchNorm: {self.bn}")

    def before_train_epoch(self, runner: Runner) -> None:
        """Calibrates when its epoch has come; keeps frozen BatchNorm in evaluation mode."""
        model = unwrapped_model(runner)
        quantizers = list(named_quantizers(model).values())
        if runner.epoch >= self.calibration_epoch:
            if not all(quantizer.is_calibrated for quantizer in quantizers):
                self._calibrate(runner, model)
            for quantizer in quantizers:
                quantizer.enabled = True
        if self.bn == "freeze":
            freeze_bn_(model)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Refuses to resume from a checkpoint of another structure; mmengine would only log the difference.

        Raises:
            CheckpointError: it is no checkpoint of this training.
        """
        if not runner._resume or self.structure is None:
            return
        found = checkpoint.get(_STRUCTURE_KEY)
        if found != self.structure.to_json():
            what = "another quantization" if found else "no quantization: it is a checkpoint of a float training"
            raise CheckpointError(
                f"QATHook: cannot resume from '{runner._load_from or runner.work_dir}': it holds {what}. Resume with "
                "the settings it was made with, or start again without --resume."
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Puts the structure beside the weights."""
        assert self.structure is not None
        checkpoint[_STRUCTURE_KEY] = self.structure.to_json()

    def after_train(self, runner: Runner) -> None:
        """Makes the model what will be deployed, and writes it.

        That is the averaged weights where an average was kept, and BatchNorm folded, with the weights' scales.
        """
        from mmengine.dist import is_main_process

        if self.structure is None:
            return
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                # Before folding: the average was kept of the unfolded weights.
                hook._swap_ema_parameters()
        if self.bn != "fold":
            self.structure = fold_trained_bn(unwrapped_model(runner), self.structure)
        if self.output is not None and is_main_process():
            path = Path(runner.work_dir) / self.output
            meta = {"model_config": Path(runner.cfg.filename or "").name, "epochs": runner.max_epochs}
            self.save_release(runner, path, meta)
            runner.logger.info(f"QATHook: wrote {path}")

    def save_release(self, runner: Runner, path: Path, meta: Mapping[str, Any]) -> None:
        """Writes the trained model with its scales (`save_ptq_model`); `meta` says where it came from.

        Raises:
            ConfigError: it was never calibrated.
        """
        from quant.checkpoint import save_ptq_model

        save_ptq_model(unwrapped_model(runner), path, self.structure, {"method": "qat", "bn": self.bn, **meta})

    def _calibrate(self, runner: Runner, model: nn.Module) -> None:
        model.eval()
        device = next(model.parameters()).device
        # One process looks at the frames; the others receive its scales, so that all hold the same bits.
        from mmengine.dist import broadcast, is_main_process

        if is_main_process():
            spec = ModelSpec.from_config(runner.cfg)
            manager = CalibrationManager(model, spec)
            manager.calibrate(
                self._batches(runner, model), self.calibration_batches, amax_method=self.amax_method, workers=1
            )
        for quantizer in named_quantizers(model).values():
            scale = quantizer.scale.to(device).contiguous()
            broadcast(scale, src=0)
            quantizer.set_scale(scale)
        model.train()

    def _batches(self, runner: Runner, model: nn.Module) -> Iterable[Any]:
        from quant.calibration.batches import calibration_batches

        source = self.model_config or runner.cfg.filename
        if source is None:
            _logger.warning(
                "QATHook: calibrating on augmented training batches; set model_config to calibrate on the frames as "
                "the network sees them in deployment."
            )
            return cast(Iterable[Any], runner.train_dataloader)
        from models.config import load_model_config

        return calibration_batches(
            load_model_config(source),
            split="train",
            data_root=self.data_root or runner.cfg.train_dataloader.dataset.get("data_root"),
            max_frames=self.calibration_batches,
            model=model,
        )


def _check_buildable(runner: Runner) -> None:
    if not isinstance(runner.cfg.get("optim_wrapper"), dict):
        raise ConfigError(
            "QATHook: the Runner's config has no 'optim_wrapper' table, from which the optimizer is built again after "
            "the model has been quantized. Make the Runner with Runner.from_cfg."
        )


def _rebuild(runner: Runner, model: nn.Module, schedule: str) -> None:
    """Optimizer, schedule and DDP wrapper on the parameters that the model has now."""
    wrapped = is_model_wrapper(runner.model)
    runner.model = model
    if wrapped:
        # The old wrapper's hooks on the parameters go with it.
        gc.collect()
        runner.model = runner.wrap_model(runner.cfg.get("model_wrapper_cfg"), model)
    runner.optim_wrapper = runner.build_optim_wrapper(copy.deepcopy(runner.cfg.optim_wrapper))
    runner.scale_lr(runner.optim_wrapper, runner.auto_scale_lr)
    wanted = copy.deepcopy(runner.cfg.get("param_scheduler"))
    if schedule == "fine_tune":
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        length = runner.max_epochs if by_epoch else runner.max_iters
        lr = max(float(group["lr"]) for group in runner.optim_wrapper.param_groups)
        wanted = fine_tuning_schedule(length, lr, by_epoch=by_epoch)
        runner.logger.info(
            f"QATHook: the rate climbs to {wanted[0]['eta_max']:g} and falls, whatever param_scheduler says"
        )
    if wanted is not None:
        runner.param_schedulers = runner.build_param_scheduler(wanted)
