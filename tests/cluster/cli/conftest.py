"""The site with trainer pods, for what needs a node."""

from __future__ import annotations

from cluster.trainers.conftest import site as site
from cluster.trainers.conftest import team as team
