"""Deploy configuration: schema, loading, and the checks that come before any work."""

from __future__ import annotations

from base.lazy import lazy_attributes

__all__ = ["DeployConfig", "load_deploy_config", "parse_deploy_config"]

__getattr__ = lazy_attributes(
    __name__,
    {"DeployConfig": "schema", "load_deploy_config": "loading", "parse_deploy_config": "loading"},
)
