"""What must be true of a study when it has ended, whatever was killed on the way."""

from __future__ import annotations

import itertools
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy
from mlflow import MlflowClient
from optuna.trial import TrialState

from acsearch.policies.base import State
from acsearch.policies.sampler import proposal_seed
from acsearch.storage.home import Home
from acsearch.study.schema import SURPLUS
from acsearch.study.snapshot import Snapshot
from acsearch.study.stored import StoredStudy
from acsearch.study.trials import Trials
from chaos.places import BUDGET, Place
from support import s3
from trainers.checkpoints.commit import MANIFEST, committed, sha256
from trainers.checkpoints.uploads import content_name
from trainers.model.loading import WEIGHTS
from trainers.training.metrics_log import MetricsLog


@dataclass(frozen=True)
class Found:
    """alignment, correspondence: by candidate.  finetuned: points, errors and objective by candidate.
    proposed: candidates by trial.  stages: SHA-256 of the weights, and the losses, of each stage's result.
    answers: SHA-256 of what each finetuned model said, by stage and benchmark."""

    alignment: bytes
    correspondence: bytes
    finetuned: dict[int, Any]
    proposed: list[int]
    stages: dict[str, tuple[str, list[Any]]]
    answers: dict[str, str]


def found(place: Place) -> Found:
    snapshot = _study(place).snapshot()
    stages = {}
    for home in place.homes:
        for mark in (home / "work" / "stages").glob(f"*/result/{MANIFEST}"):
            assert committed(mark.parent), mark
            losses = [[line.step, line.metrics["loss"]] for line in MetricsLog(mark.parent / "outbox.jsonl").read()]
            stages[mark.parts[-3]] = (json.loads(mark.read_text())[WEIGHTS], losses)
    return Found(
        snapshot.table.alignment.tobytes(),
        snapshot.table.correspondence.tobytes(),
        {
            one.candidate: (one.points, one.errors, one.objective)
            for one in snapshot.finished
            if one.candidate is not None
        },
        [one.candidate for one in snapshot.finetunes if one.candidate is not None],
        stages,
        {
            f"{path.parts[-4]}/{path.name}": sha256(path)
            for home in place.homes
            for path in (home / "work" / "stages").glob("*/eval/samples/*.jsonl")
        },
    )


def wrong(place: Place, twin: Found, *, in_turns: bool) -> list[str]:
    """What is not as it must be, in words. in_turns: there was one controller."""
    study = _study(place)
    snapshot, here = study.snapshot(), found(place)
    checks: list[Iterator[str]] = [
        _budget(study, snapshot),
        _results(place, here, twin),
        _proposals(study, here, twin, in_turns=in_turns),
        _record(place, snapshot, twin),
        _files(place),
        _database(place),
    ]
    if place.services is not None:
        checks += [_objects(place, snapshot), _leases(place)]
    return list(itertools.chain(*checks))


def noted(place: Place) -> list[str]:
    """What may be, and is worth telling."""
    surplus = [one for one in _study(place).optuna_study.get_trials(deepcopy=False) if one.user_attrs.get(SURPLUS)]
    return [f"{len(surplus)} trials beyond the budget, never begun"] if surplus else []


def _study(place: Place) -> StoredStudy:
    return StoredStudy.open(place.home.open_storage(create=False), place.home.claims(place.name), place.name)


def _budget(study: StoredStudy, snapshot: Snapshot) -> Iterator[str]:
    states = [one.state for one in snapshot.finetunes]
    if states != ["complete"] * BUDGET:
        yield f"trials: {states}"
    candidates = [one.candidate for one in snapshot.finetunes]
    if len(set(candidates)) != len(candidates):
        yield f"finetuned twice: {candidates}"
    for trial in study.optuna_study.get_trials(deepcopy=False):
        if trial.state != (TrialState.FAIL if trial.user_attrs.get(SURPLUS) else TrialState.COMPLETE):
            yield f"trial {trial.number} is {trial.state.name}"
    if study.unscored:
        yield f"not scored: {study.unscored}"


def _results(place: Place, here: Found, twin: Found) -> Iterator[str]:
    for what in ("alignment", "correspondence"):
        if getattr(here, what) != getattr(twin, what):
            yield f"another {what}: {np.frombuffer(getattr(here, what))} for {np.frombuffer(getattr(twin, what))}"
    for candidate, scores in here.finetuned.items():
        if scores != twin.finetuned[candidate]:
            yield f"candidate {candidate}: {scores} for {twin.finetuned[candidate]}"
    for stage, what in here.stages.items():
        for name, one, other in zip(("weights", "losses"), what, twin.stages[stage], strict=True):
            if one != other:
                yield f"stage {stage}: other {name}: {one} for {other}"
    if not here.answers.items() <= twin.answers.items() or len(here.answers) < 2 * BUDGET:
        yield f"other answers: {here.answers} for {twin.answers}"
    missing = 3 + BUDGET - len(here.stages)
    if missing:
        yield f"{missing} stages have no result"


def _proposals(study: StoredStudy, here: Found, twin: Found, *, in_turns: bool) -> Iterator[str]:
    """One controller: the undisturbed ones. Two: what the policy says for finished and running trials before it."""
    if in_turns:
        if here.proposed != twin.proposed[:BUDGET]:
            yield f"proposed {here.proposed} for {twin.proposed[:BUDGET]}"
        return
    for number, candidate in enumerate(here.proposed):
        if candidate not in set(_possible(study, number, here.proposed[:number])):
            yield f"trial {number}: proposed {candidate}"


def _possible(study: StoredStudy, number: int, before: list[int]) -> Iterator[int]:
    sampler, trials = Trials(study, print)._sampler, {t.params["candidate"]: t for t in study.trials()}
    for finished in itertools.chain(*(itertools.combinations(before, count) for count in range(len(before) + 1))):
        observed = sorted(finished)
        scores = [[trials[row].user_attrs["scores"][name] for name in sampler._benchmarks] for row in observed]
        state = State(
            features=sampler._features,
            weights=sampler._weights,
            observed=np.array(observed, dtype=np.intp),
            scores=np.array(scores).reshape(len(observed), len(sampler._benchmarks)),
            pending=np.array(sorted(set(before) - set(observed)), dtype=np.intp),
            excluded=np.array([], dtype=np.intp),
        )
        yield sampler._policy.propose(state, proposal_seed(sampler._seed, number))


def _record(place: Place, snapshot: Snapshot, twin: Found) -> Iterator[str]:
    client = MlflowClient(tracking_uri=place.tracking)
    experiments = [one.experiment_id for one in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`acsearch.study` = '{place.name}'")
    keys = Counter(run.data.tags["acsearch.key"].removeprefix(f"{place.name}/") for run in runs)
    if len(keys) != 1 + 3 + BUDGET or set(keys.values()) != {1}:
        yield f"runs: {dict(keys)}"
    losses = sorted(losses for _, losses in twin.stages.values())
    trained = 0
    for run in runs:
        name, status = run.info.run_name, run.info.status
        if status != "FINISHED":
            yield f"run {name} is {status}"
        for metric in run.data.metrics:
            history = client.get_metric_history(run.info.run_id, metric)
            steps = [point.step for point in history]
            if steps != sorted(set(steps)):
                yield f"run {name}: {metric} at steps {steps}"
            if metric == "train/loss":
                trained += 1
                if [[point.step, point.value] for point in history] not in losses:
                    yield f"run {name}: other losses: {[point.value for point in history]}"
            if metric == "reco/p_best" and steps != list(range(BUDGET + 1)):
                yield f"run {name}: recommendations at steps {steps}"
    if trained != 3 + BUDGET:
        yield f"{trained} runs have losses"
    for one in snapshot.finished:
        metrics = next((run.data.metrics for run in runs if run.info.run_id == one.run), {})
        if one.points != {name: metrics.get(f"bench/{name}") for name in one.points}:
            yield f"trial {one.trial}: other scores in its run"
    ours = {run.info.run_id for run in runs}
    models = [one for one in client.search_logged_models(experiments) if one.source_run_id in ours]
    versions = client.search_model_versions(f"name = 'acsearch-{place.name}'")
    if len(versions) != 1 or [one.status.name for one in models] != ["READY"]:
        yield f"{len(versions)} registered of the models {[(one.model_id, one.status.name) for one in models]}"


def _files(place: Place) -> Iterator[str]:
    for home in place.homes:
        half = [path for path in (home / "work").rglob(".*") if path.suffix != ".lock"]
        steps = (home / "work" / "stages").glob("*/step-*")
        asked = (home / "work" / "stages").glob("*/stop")
        databases = [path for end in ("new", "journal", "wal", "shm") for path in home.glob(f"*[.-]{end}")]
        for path in (*half, *steps, *asked, *databases):
            if not any(parent in half for parent in path.parents):
                yield f"left behind: {path.relative_to(place.folder)}"


def _objects(place: Place, snapshot: Snapshot) -> Iterator[str]:
    names, belonging = _stored(place)
    if not belonging <= names:
        yield f"not in the store: {sorted(belonging - names)}"
    left = sorted(name for name in names - belonging if "/eval/" not in name)
    if left:
        yield f"left in the store: {left}"
    client, prefix = _bucket(place)
    if uploads := client.list_multipart_uploads(Bucket=s3.BUCKET, Prefix=prefix).get("Uploads"):
        yield f"half uploads: {[one['Key'] for one in uploads]}"
    for one in snapshot.finished:
        address = str(one.checkpoint).removeprefix(f"s3://{s3.BUCKET}/{prefix}")
        if f"{address}/{MANIFEST}" not in names:
            yield f"trial {one.trial}: no checkpoint {one.checkpoint}"


def _bucket(place: Place) -> tuple[Any, str]:
    assert place.services is not None
    return place.services.bucket.client(), f"{place.name}/"


def _stored(place: Place) -> tuple[set[str], set[str]]:
    """Objects of stages, and those of them that belong to committed results."""
    client, prefix = _bucket(place)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=s3.BUCKET, Prefix=f"{prefix}stages/")
    names = {one["Key"].removeprefix(prefix) for page in pages for one in page.get("Contents", ())}
    marks = [name for name in names if name.endswith(f"/result/{MANIFEST}")]
    belonging = set(marks)
    for mark in marks:
        content = client.get_object(Bucket=s3.BUCKET, Key=prefix + mark)["Body"].read()
        belonging |= {content_name(mark.removesuffix(f"/{MANIFEST}"), content, file) for file in json.loads(content)}
    return names, belonging


def _leases(place: Place) -> Iterator[str]:
    engine, until = sqlalchemy.create_engine(place.storage), time.monotonic() + 10
    held = "select name from acsearch_leases where expires >= extract(epoch from clock_timestamp())"
    while True:
        with engine.connect() as connection:
            names = connection.execute(sqlalchemy.text(held)).scalars().all()
        if not names:
            return engine.dispose()
        if time.monotonic() > until:
            yield f"leases held: {names}"
            return engine.dispose()
        time.sleep(0.2)


def _database(place: Place) -> Iterator[str]:
    for home in place.homes:
        for path in home.glob("*.db"):
            with closing(sqlite3.connect(path)) as connection:
                for pragma, fine in (("integrity_check", [("ok",)]), ("foreign_key_check", [])):
                    if (told := connection.execute(f"pragma {pragma}").fetchall()) != fine:
                        yield f"{path.name}: {pragma}: {told}"
    home = Home(storage=place.storage)
    if len(home.open_storage(create=False).get_all_studies()) != 1:
        yield "more than one study"
