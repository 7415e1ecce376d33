"""What a platform team watches: series of the operator and of running stages, and an alert that fires."""

from __future__ import annotations

from pathlib import Path

from cluster.trainers.jobs import sft_only
from cluster.trainers.prometheus import Prometheus
from cluster.trainers.site import Namespace, Site


def test_operator_and_trainers_are_scraped_and_a_failed_job_is_told(
    site: Site, team: Namespace, tmp_path: Path
) -> None:
    with Prometheus(site, tmp_path) as prometheus:
        team.apply(sft_only("watched", steps=100_000))
        of = f'namespace="{team.name}", rlhfjob="watched"'
        steps: list[dict[str, str]] = []

        def scraped() -> bool:
            steps[:] = prometheus.ask(f'rlhf_train_step{{{of}, stage="sft"}} > 0')
            return bool(steps)

        site.until(scraped, "the trainer is scraped")
        site.until(lambda: bool(prometheus.ask(f'rlhf_job_phase{{{of}, phase="Running"}}')), "the operator is scraped")
        (step,) = steps
        assert step["attempt"] == "0"
        assert not prometheus.ask(f'ALERTS{{{of}, alertname="RLHFJobFailed"}}')

        lost = sft_only("lost")
        lost["spec"]["inputs"][0]["source"] = "pvc://data/nothing"
        team.apply(lost)
        assert team.ended("lost")["phase"] == "Failed"
        firing = f'ALERTS{{alertname="RLHFJobFailed", alertstate="firing", namespace="{team.name}", rlhfjob="lost"}}'
        site.until(lambda: bool(prometheus.ask(firing)), "the alert fires")
        assert team.status("watched")["phase"] == "Running", team.diagnosis()
        assert not prometheus.ask(firing.replace('"lost"', '"watched"'))
