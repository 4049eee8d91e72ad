"""Captions that come with the data: read in the layouts that public data sets have, matched to clips by their source.

`bring` is the entry. A family of layouts is a file: `sidecars` (a text file a video, and lists of lines), `tables`
(CSV, JSON lines, Parquet). Each gives rows; `match` says whose video a row speaks of, `assign` which clips of it.
"""
