"""The kinds of rows that the ledger holds, each with a sentence for the auditor: the closed list that an append is held to."""

from __future__ import annotations

from collections.abc import Mapping

_STEPS = ("ingest", "materialize", "transfer", "train", "evaluate", "score", "serve", "watch")

KINDS: Mapping[str, str] = {
    "decision": "where one step may run, where it runs, and every place that was refused, under which rules and inputs",
    "failover": "a run was failed by its place, and its step was decided anew",
    "place-failure": "a run was ended from outside its step: of what kind, where, in the words of the cloud",
    "orphan": "a job in a cloud outlived its run, or ran beside it, and was ended",
    "lost-run": "a run whose job is gone was ended",
    "plan": "several steps were placed together",
    "policy-version": "a decision or `apply` met other policies than the ones before: the sha256 of their files",
    "dispatch": "control started a run of a step: of which intent, which attempt, where, by which decision",
    "guard-refusal": "a worker did not start a run, or a running step was stopped, at a wall: what it asked for and why not",
    "credentials": "a run was given short-lived credentials: for which sites, how, until when, the sha256 of the policy that narrows them",
    **{f"step-{step}": f"a run of `{step}` ended well: what it made, where" for step in _STEPS},
    "transfer": "a dataset version was copied from one site to another: bytes, checksums, cost",
    "approval-request": "something waits for a person: what must be judged",
    "approval": "an authenticated approver said yes or no to one request, with a reason and an end",
    "approval-absence": "a promotion that waits was tried again while nobody had decided: the mere resuming of its run",
    "approval-use": "a record of approval was relied on",
    "promotion-begun": "the alias of a serving model began to move: all numbers and checks",
    "promotion": "a model version became champion",
    "promotion-refusal": "a model version did not become champion: which check failed",
    "rollback": "an earlier model version became champion again: who asked and why",
    "alias-repair": "an alias was moved outside the project and was put back",
    "label-change": "a dataset's label, own or derived, is not the one recorded before",
    "declassification": "a label was lowered, by whom, until when and why",
    "classification": "a detector judged the columns of a dataset",
    "import": "labels were imported from an outside catalog",
    "publication": "datasets, models or lineage were published to an outside catalog",
    "review": "an access review was made, attested or re-opened: grants by id, keep or revoke",
    "retrain-trigger": "drift asked for a retrain, and its intent was opened",
    "retrain-refusal": "drift asked for a retrain, and none was opened: why",
    "erasure": "a subject was erased: where, how many rows, the proof by re-scan; never who",
    "retention": "data past its retention was removed, or would be: datasets, versions, sites",
    "configuration": "`apply` changed what the orchestrator holds: each object, and its declaration's hash before and after",
    "site-cordon": "a site takes nothing new",
    "site-drain": "a site is emptied",
    "site-uncordon": "a site is open again",
    "signing-key": "a public key of the control plane was enrolled",
    "security-proof": "a site proved, or failed to prove, its encryption, keys, buckets and secrets",
}
"""Kind to what a row of it records."""
