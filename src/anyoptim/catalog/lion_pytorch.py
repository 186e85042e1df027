"""Lion, by Phil Wang. Source: https://github.com/lucidrains/lion-pytorch"""

from __future__ import annotations

from anyoptim.catalog._index import indexed

SPECS = indexed("lion_pytorch", licence="MIT", extra="lion")
