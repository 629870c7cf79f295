"""Make the two stores of MLflow that the tests read: run with a folder as argument."""

import os
import sys

os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    Metric,
    Param,
)
from mlflow.tracking import MlflowClient

START = 1_700_000_000_000
POINTS = 10_000


def fill(uri, file):
    client = MlflowClient(uri, uri)
    experiment = client.create_experiment("digits", tags={"team": "vision"})
    tags = {
        "mlflow.note.content": "two\nlines", "mlflow.source.git.commit": "a" * 40,
        "mlflow.user": "ann", "mlflow.source.name": "train.py", "sweep": "x",
    }  # fmt: skip
    run = client.create_run(experiment, START, tags, "parent").info.run_id
    params = {"lr": "0.1", "opt": "{'name': 'adam'}", "none": "None", "id": "0012"}
    client.log_batch(run, params=[Param(*each) for each in params.items()])
    points = [
        Metric(name, 1 / (step + 1 + place), START + step, step)
        for step in range(POINTS // 2)
        for place, name in enumerate(("loss", "val/acc"))
    ]
    odd = [("loss", float("nan")), ("loss", float("inf"))]
    points += [Metric(*each, START + POINTS + place, place) for place, each in enumerate(odd)]
    points.append(Metric("system/cpu_percent", 12.5, START, 0))
    for begin in range(0, len(points), 1000):
        client.log_batch(run, metrics=points[begin : begin + 1000])
    client.log_artifact(run, file)
    client.log_artifact(run, file, "data/raw")
    dataset = Dataset("train", "abc", "local", '{"uri": "/data/x.csv"}')
    client.log_inputs(run, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    client.create_registered_model("net")
    client.create_model_version("net", f"runs:/{run}/data", run)
    client.set_registered_model_alias("net", "champion", "1")
    client.set_terminated(run, "FINISHED", START + 60_000)
    add_model(client, experiment, run, file)

    child = client.create_run(experiment, START + 1, {"mlflow.parentRunId": run}, "child")
    client.log_metric(child.info.run_id, "loss", 0.5, START + 5, 3)
    client.set_terminated(child.info.run_id, "FAILED", START + 9)
    client.delete_run(client.create_run(experiment, START + 2, run_name="deleted").info.run_id)
    client.create_run(experiment, START + 3, run_name="never ended")


def add_model(client, experiment, run, file):
    model = client.create_logged_model(experiment, "net", run)
    client.log_outputs(run, [LoggedModelOutput(model.model_id, 0)])
    folder = model.artifact_location.removeprefix("file://")
    os.makedirs(folder, exist_ok=True)
    for name in ("MLmodel", "weights.bin"):
        with open(os.path.join(folder, name), "w") as target:
            target.write(name)


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    with open("notes.txt", "w") as text:
        text.write("hello")
    fill("files/mlruns", "notes.txt")
    os.makedirs("database")
    os.chdir("database")
    fill("sqlite:///mlflow.db", "../notes.txt")
