"""The report: one self-contained HTML file that opens from disk, made of the pages that stages save."""

from orchestration.report.build import build_report, write_pages
from orchestration.report.page import LIMIT, Page, Section, data_uri, environment
from orchestration.report.store import save_page
from orchestration.report.strips import strips

__all__ = ["LIMIT", "Page", "Section", "build_report", "data_uri", "environment", "save_page", "strips", "write_pages"]
