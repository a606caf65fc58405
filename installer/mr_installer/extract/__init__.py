"""Turn the layers of a bundle into a tree on disk, strictly: verified, bounded, inside its directory."""

from mr_installer.extract.finish import finish_tree
from mr_installer.extract.job import LayerJob, LayerResult, Limits
from mr_installer.extract.pool import ExtractionPool
from mr_installer.extract.rules import Rule

__all__ = ["ExtractionPool", "LayerJob", "LayerResult", "Limits", "Rule", "finish_tree"]
