"""The pod that fills a claim (docs/clusters.md) is taken where Pod Security enforces `restricted`."""

from __future__ import annotations

import re
from pathlib import Path

from cluster.control_plane import ControlPlane

PAGE = Path(__file__).parents[3] / "docs" / "clusters.md"
POD = re.compile(r"^kubectl apply -n \"\$NAMESPACE\" -f - <<END\n(.*?)^END$", re.MULTILINE | re.DOTALL)


def test_the_pod_that_fills_a_claim_is_restricted(controlled_plane: ControlPlane, tmp_path: Path) -> None:
    manifest = POD.search(PAGE.read_text())
    assert manifest is not None
    pod = tmp_path / "fill.yaml"
    pod.write_text(manifest[1].replace("$TRAINER@$TRAINER_DIGEST", f"trainer@sha256:{'0' * 64}"))
    controlled_plane.kubectl("create", "namespace", "filling")
    controlled_plane.kubectl("label", "namespace", "filling", "pod-security.kubernetes.io/enforce=restricted")
    controlled_plane.kubectl("wait", "-n", "filling", "--for=create", "serviceaccount/default", "--timeout=5m")
    controlled_plane.kubectl("apply", "-n", "filling", "--dry-run=server", "-f", str(pod))
