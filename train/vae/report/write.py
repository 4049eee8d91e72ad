"""Writes what is said of a VAE that is trained: its page of the report."""

from __future__ import annotations

from orchestration.report import build_report, save_page
from orchestration.storage import Storage
from train.vae.report.page import vae_page


def write_report(output: Storage) -> int:
    """Make the page of a run's output folder, write the report there, return its size in bytes."""
    save_page(output, vae_page(output))
    return build_report(output, "rushes", subtitle=output.uri)
