"""The report: one self-contained HTML file that opens from disk, made of the pages that stages contribute."""

from orchestration.report.build import build_report
from orchestration.report.page import LIMIT, Page, Section, data_uri, environment

__all__ = ["LIMIT", "Page", "Section", "build_report", "data_uri", "environment"]
