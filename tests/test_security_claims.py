"""Every sentence of SECURITY.md that claims something has a test, and that test exists."""

# ruff: noqa: E501  (sentences as the page has them)

import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
ADVICE = ()
"""Tests of a sentence that says what a user should do, or what qdet does not promise."""
HOSTILE = "tests/checkpoint/test_hostile_checkpoints.py"
JOINING = "tests/training/test_joining.py"
CHANGED = "tests/storage/test_changed_records.py::test_a_few_changes_are_read_as_they_say_or_refused"
REPRODUCED = (
    "tests/launch/test_reproduce.py::test_a_record_behind_a_url_opens_no_url_that_the_user_does_not_trust",
    "tests/launch/test_reproduce.py::test_a_record_that_cannot_be_trained_is_refused",
)
CLAIMS: dict[str, tuple[str, ...]] = {
    "job files with their callbacks, commands in shard addresses (`pipe:`): they are programs": (
        "tests/data/test_sequential_stream.py::test_commands_are_allowed_by_their_first_words",
        "tests/data/test_sequential_stream.py::test_pipe_commands_are_not_interpreted_by_a_shell",
    ),
    "run only those you would run": ADVICE,
    "checkpoints, `.safetensors`, `.onnx`, shards, annotations, images, videos: none": (
        f"{HOSTILE}::test_a_name_that_leads_elsewhere_is_refused_before_anything_is_touched",
        "tests/datasets/test_hostile.py::test_names_that_lead_out_of_the_folder_are_refused",
        "tests/exporting/test_files.py::test_what_is_no_such_file_is_named",
    ),
    "sizes, names and contents are checked, and nothing in them is executed": (
        f"{HOSTILE}::test_no_more_is_read_than_the_manifest_lists",
        "tests/datasets/test_hostile.py::test_absurd_sizes_of_images_are_refused_by_their_header",
        "tests/data/test_decoding.py::test_a_cut_or_damaged_file_is_named",
        "tests/test_security.py::test_no_source_runs_what_it_reads",
    ),
    "Manifests, states, jobs and indexes that were changed, with digests that fit again, are read as they say or "
    "refused in one line": (CHANGED, "tests/storage/test_parsing.py::test_no_file_makes_a_traceback"),
    "servers of datasets and checkpoints: none": (
        f"{HOSTILE}::test_no_more_is_read_than_the_manifest_lists",
        "tests/data/test_hostile_manifests.py::test_what_is_elsewhere_is_refused",
    ),
    "what they list is below their own address or in `--data.allow-hosts`, and no redirect and no name leads to an "
    "address of this machine or its network that you did not name": (
        "tests/data/test_hostile_manifests.py::test_what_is_beside_it_or_allowed_is_read",
        "tests/storage/test_guard.py::test_a_redirect_to_this_machine_is_refused",
        "tests/storage/test_guard.py::test_a_name_leads_to_its_public_addresses_alone",
    ),
    "the record that `qdet reproduce` reads: none": REPRODUCED,
    "it names detectors and settings of qdet, commands in it are not run, and one behind a URL opens no URL without "
    "`--trust`": REPRODUCED,
    "authors' `.pth` files, in `qdet convert`: read by PyTorch's restricted unpickler, which builds tensors only": (
        "tests/launch/test_convert_command.py::test_files_that_cannot_be_read_are_named",
        "tests/test_security.py::test_torch_load_belongs_to_converters",
    ),
    "`.pt2` files: local files only": (
        "tests/exporting/test_files.py::test_a_program_is_loaded_from_this_machine_alone",
    ),
    "PyTorch unpickles parts of them, so load only your own": ADVICE,
    "uploads to `qdet serve`: none": ("tests/serving/test_fuzz.py::test_anything_at_all",),
    "bytes and pixels are limited, and a bearer token is needed off loopback": (
        "tests/serving/test_limits.py::test_bytes_are_counted_as_they_come",
        "tests/serving/test_limits.py::test_too_many_pixels_are_refused_by_the_header_alone",
        "tests/serving/test_limits.py::test_a_token_is_asked_for_where_there_is_one",
        "tests/serving/test_serve_command.py::test_only_loopback_goes_without_a_token",
    ),
    "the MLflow server and the store: trusted with what is logged and saved": ADVICE,
    "secrets in settings and URLs are masked first": (
        "tests/test_masking.py::test_a_secret_is_masked_wherever_it_stands",
        "tests/launch/test_no_secret_leaks.py::test_a_finished_run_leaks_no_secret",
    ),
    "Damaged records of runs, sweeps and leases are refused, and no lease lasts for ever": (CHANGED,),
    "other users of this machine: none, but for a `--data.cache` that they may write": (
        "tests/data/test_shared_cache.py::test_a_folder_of_a_group_is_shared_whatever_the_umask",
    ),
    "its checksums lie beside the images": ADVICE,
    "The folder of one user is refused to another by name": (
        "tests/data/test_shared_cache.py::test_the_folder_of_one_user_is_named_to_another",
    ),
    "Temporary folders of others are never removed": (
        "tests/storage/test_scratch.py::test_only_what_is_known_to_be_left_behind_is_removed",
    ),
    "the Ray cluster: trusted": ADVICE,
    "who reaches its ports runs code": ADVICE,
    "The local head listens on loopback, behind a token": (
        "tests/launch/test_head_ports.py::test_a_head_is_asked_to_listen_on_loopback_behind_a_token",
    ),
    "a note that Ray left of a cluster on this machine: only your own file in a folder where no other user can "
    "write": (
        "tests/sweeps/test_which_cluster.py::test_a_cluster_that_ray_has_noted_on_this_machine_is_not_joined",
        "tests/sweeps/test_which_cluster.py::test_the_head_of_another_user_is_not_joined",
    ),
    "the cluster it names is joined with a token": (
        "tests/launch/test_preflight.py::test_token_of_our_own_is_made_once_and_private",
    ),
    "other processes that reach the port where ranks meet: none": (
        f"{JOINING}::test_neither_end_believes_one_without_the_secret",
        f"{JOINING}::test_no_bytes_of_a_stranger_reach_the_table",
    ),
    "they need the run's secret, which is new for every start on Ray": (
        f"{JOINING}::test_each_run_has_a_secret_of_its_own",
    ),
    "the ranks of a run: each other's numbers": ADVICE,
    "they exchange tensors and JSON, and unpickle nothing of each other": (
        f"{JOINING}::test_no_rank_unpickles_what_another_sent",
        "tests/test_security.py::test_the_search_finds_what_it_looks_for",
    ),
    "where the ranks of a run meet, on the interface of rank 0's address: loopback where all are on one machine: "
    "who knows the run's secret": (
        f"{JOINING}::test_three_ranks_exchange_values_on_loopback_alone",
        f"{JOINING}::test_neither_end_believes_one_without_the_secret",
    ),
    "both ends prove it to each other by HMAC-SHA256 before a message is read, and every message carries a tag": (
        f"{JOINING}::test_neither_end_believes_one_without_the_secret",
        f"{JOINING}::test_a_message_that_is_not_what_was_sent_ends_the_connection",
    ),
    "Nothing is encrypted": ADVICE,
    "gloo's and NCCL's connections between ranks: not ours, and without authentication of their own": ADVICE,
    "who reaches gloo's port in the moment in which ranks connect can feed them wrong numbers, not code": (
        f"{JOINING}::test_no_rank_unpickles_what_another_sent",
    ),
    "gloo stays on loopback where the ranks meet there": (
        f"{JOINING}::test_three_ranks_exchange_values_on_loopback_alone",
    ),
    "across machines, close these ports to others": ADVICE,
    "torchrun's store, at `--rdzv-endpoint`: not ours, and open to all who reach it": ADVICE,
    "qdet reads rank 0's address there and nothing else": (
        f"{JOINING}::test_of_torchruns_store_the_address_is_read_and_nothing_else",
    ),
    "who changes it keeps a run from starting": (
        f"{JOINING}::test_of_torchruns_store_the_address_is_read_and_nothing_else",
    ),
    "Ray's ports: who has the token": (
        "tests/launch/test_head_ports.py::test_a_head_is_asked_to_listen_on_loopback_behind_a_token",
    ),
    "they run code": ADVICE,
    "Keep them behind a firewall all the same": ADVICE,
    "MLflow's server: all who reach it, unless you put something in front": ADVICE,
    "DeepSpeed uses the process groups that qdet made and opens no port of its own": (
        f"{JOINING}::test_three_ranks_exchange_values_on_loopback_alone",
    ),
    "Its and PyTorch's functions that exchange pickled objects are not called": (
        "tests/test_security.py::test_no_source_runs_what_it_reads",
    ),
    "a slow test trains with them disabled": (f"{JOINING}::test_no_rank_unpickles_what_another_sent",),
}


def split_claims(page: str) -> list[str]:
    """Return the sentences of the tables and of the paragraph below them, in order."""
    rows = re.findall(r"^\| (?!from|port|---)(.+?) \| (.+) \|$", page, flags=re.M)
    said = [f"{subject}: {text}" for subject, text in rows]
    said += [re.sub(r"\s+", " ", page[page.rindex("DeepSpeed uses") :])]
    found = []
    for (subject, _), one in zip([*rows, ("", "")], said, strict=True):
        first, *others = re.split(r"(?<=[.;:])\s+", one.removeprefix(f"{subject}: ").strip())
        parts = [f"{subject}: {first}" if subject else first, *others]
        found += [part.rstrip(".;:") for part in parts]
    return found


def list_tests(file: Path) -> set[str]:
    """Return the names of the tests of a file, also of those in classes."""
    nodes = ast.walk(ast.parse(file.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def test_every_sentence_has_an_entry_and_every_entry_a_sentence():
    assert split_claims((REPO / "SECURITY.md").read_text()) == list(CLAIMS)


@pytest.mark.parametrize("test", sorted({test for tests in CLAIMS.values() for test in tests}))
def test_the_tests_exist(test: str):
    file, _, name = test.partition("::")
    assert name.startswith("test_")
    assert name in list_tests(REPO / file)


def test_a_new_sentence_is_noticed():
    page = (REPO / "SECURITY.md").read_text()
    added = page.replace("| the MLflow server", "| nobody | none: nothing is lost |\n| the MLflow server", 1)
    assert "nobody: none" in split_claims(added)
    assert "nothing is lost" in split_claims(added)
    assert split_claims(page.replace("Nothing is encrypted", "All is encrypted")) != list(CLAIMS)
