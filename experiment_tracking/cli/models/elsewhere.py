"""``experiments models card``, ``push`` and ``export``: a version for other people and programs."""

import argparse
import os
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli import text
from experiment_tracking.cli.command import DONE, Names, new_command
from experiment_tracking.cli.models.reference import add_reference, registry_of
from experiment_tracking.cli.screen import json_out, say
from experiment_tracking.errors import InvalidValueError

if TYPE_CHECKING:
    from experiment_tracking.models.version import ModelVersion

_CARD_EXAMPLES = """
experiments models card digits/production
experiments models card digits/3 -o MODEL_CARD.md
"""
_PUSH_EXAMPLES = """
experiments models push digits/3 --to mlflow --tracking-uri http://localhost:5000
experiments models push digits/production --to wandb --wandb-project digits
experiments models push digits/3 --to hf-folder -o digits-hf
"""
_EXPORT_EXAMPLES = """
experiments models export digits/production --to onnx -o digits.onnx
experiments models export digits/3 --to program -o digits.pt2
"""
_OPTIONS = {
    "mlflow": {
        "tracking_uri": "tracking_uri", "remote_name": "name", "experiment": "experiment_name",
    },
    "wandb": {"wandb_project": "project", "entity": "entity", "mode": "mode"},
    "hf-folder": {"output": "path"},
}  # fmt: skip
"""Where a version can go, and the options of it by what the command line calls them."""


def add(verbs: Any) -> None:
    """Add the verbs."""
    summary = "write the model card of a version as Markdown"
    parser = new_command(verbs, "card", card, summary, _CARD_EXAMPLES, one_root=True)
    add_reference(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="default: print it")
    _add_push(verbs)
    summary = "write a version as one file that runs without the code that made it"
    parser = new_command(verbs, "export", export, summary, _EXPORT_EXAMPLES, one_root=True)
    add_reference(parser)
    parser.add_argument(
        "--to", required=True, choices=("onnx", "program"), help="program: of torch or jax"
    )
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="is replaced")
    parser.add_argument(
        "--trusted",
        action=Names,
        default=[],
        metavar="A,B",
        help="full names of types that a scikit-learn model may hold; for modules of this folder "
        "set PYTHONPATH=.",
    )


def _add_push(verbs: Any) -> None:
    summary = "copy a version to MLflow, W&B or a folder for the Hugging Face hub"
    parser = new_command(verbs, "push", push, summary, _PUSH_EXAMPLES, one_root=True)
    add_reference(parser)
    parser.add_argument("--to", required=True, choices=tuple(_OPTIONS), help="where it goes")
    parser.add_argument("--tracking-uri", metavar="U", help="where MLflow is")
    parser.add_argument("--experiment", metavar="E", help="MLflow's experiment; default: project")
    parser.add_argument("--remote-name", metavar="N", help="MLflow's name of it; default: the same")
    parser.add_argument("--wandb-project", metavar="P", help="W&B's project; default: project")
    parser.add_argument("--entity", metavar="E", help="W&B's user or team")
    parser.add_argument("--mode", metavar="M", help="W&B's mode: online or offline")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="the folder for --to hf-folder")


def card(args: argparse.Namespace) -> int:
    """Print a model card, or write it to a file."""
    from experiment_tracking.models.card import model_card
    from experiment_tracking.models.export import check_folder_of

    version = registry_of(args).get(args.reference)
    path = None if args.output is None else os.path.abspath(os.path.expanduser(args.output))
    if path is not None:
        check_folder_of(path)
    words = model_card(version, beside=os.path.dirname(path) if path else os.curdir)
    if path is not None:
        with open(path, "w", encoding="utf-8") as file:
            file.write(words)
    if args.json:
        json_out({"version": version.key, "path": path, "card": words})
    elif path is None:
        for line in words.splitlines():
            print(text.clean(line))
    else:
        say(f"the card of {version.key} is in {path}.")
    return DONE


def push(args: argparse.Namespace) -> int:
    """Copy a version to another world."""
    from experiment_tracking.models.push import push as push_version

    options = _given_options(args)
    version = registry_of(args).get(args.reference)
    place = push_version(version, args.to, **options)
    if args.json:
        json_out({"version": version.key, "to": args.to, "place": place})
    else:
        print(text.clean(f"{version.key} is in {place}"))
    if args.to == "mlflow":
        say(
            "MLflow keeps the files, and none of its flavors loads them: "
            "SavedModel(mlflow.artifacts.download_artifacts(artifact_uri='models:/NAME/1')).load()"
        )
    return DONE


def _given_options(args: argparse.Namespace) -> dict[str, Any]:
    own = _OPTIONS[args.to]
    words = [word for options in _OPTIONS.values() for word in options]
    given = {word: getattr(args, word) for word in words if getattr(args, word) is not None}
    for word in given.keys() - own.keys():
        raise InvalidValueError(f"--{word.replace('_', '-')} is no option of --to {args.to}.")
    if args.to == "hf-folder" and not given:
        raise InvalidValueError("--to hf-folder needs the folder: -o FOLDER.")
    return {own[word]: value for word, value in given.items()}


def _check_trusted(args: argparse.Namespace, version: "ModelVersion") -> None:
    """Name the option by which the types of a model are let in, where it has to be loaded."""
    from experiment_tracking.models.card import to_trust

    names = to_trust(version.model.document)
    if args.to == "onnx" and {*names} - {*args.trusted}:
        told = ",".join(names)
        raise InvalidValueError(
            f"{version.key} is built of {told}, which may do anything when it is loaded. If you "
            f"know and trust that: --trusted {told}. Where its module is in this folder, write "
            "PYTHONPATH=. before the command."
        )


def export(args: argparse.Namespace) -> int:
    """Write a version as one file."""
    from experiment_tracking.models.export import export as export_version

    version = registry_of(args).get(args.reference)
    _check_trusted(args, version)
    path = export_version(version, args.to, args.output, args.trusted)
    if args.json:
        size_bytes = os.path.getsize(path)
        json_out({"version": version.key, "path": str(path), "size_bytes": size_bytes})
    else:
        say(f"{version.key} is in {path}, {text.size(os.path.getsize(path))}.")
    return DONE
