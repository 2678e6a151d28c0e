"""Deploy configuration: schema, loading, and the checks that come before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.lazy import lazy_attributes

if TYPE_CHECKING:
    from deploy.config.loading import load_deploy_config, parse_deploy_config
    from deploy.config.schema import DeployConfig

__all__ = ["DeployConfig", "load_deploy_config", "parse_deploy_config"]

__getattr__ = lazy_attributes(
    __name__,
    {"DeployConfig": "schema", "load_deploy_config": "loading", "parse_deploy_config": "loading"},
)
