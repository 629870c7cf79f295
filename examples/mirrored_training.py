"""Softmax regression on handwritten digits, mirrored to MLflow and W&B where they are installed.

    pip install -e ".[examples,mlflow,wandb]"
    python examples/mirrored_training.py

Needs neither: without them the run is a folder like any other. MLflow gets it in ``./mlflow.db``,
or where ``MLFLOW_TRACKING_URI`` says; W&B online after ``wandb login``, else offline.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from experiment_tracking import ExperimentTracker
from experiment_tracking.backends import MLFLOW_AVAILABLE, WANDB_AVAILABLE

CONFIG = {"learning_rate": 0.5, "epochs": 40, "seed": 0}


def probabilities(images, weights):
    scores = np.exp(images @ weights)
    return scores / scores.sum(axis=1, keepdims=True)


def loss_of(guesses, labels):
    return -np.log(guesses[np.arange(len(labels)), labels]).mean()


def train(run, config):
    images, labels = load_digits(return_X_y=True)
    x_train, x_val, y_train, y_val = train_test_split(
        images / 16, labels, test_size=0.25, random_state=config["seed"], stratify=labels
    )
    weights = np.zeros((64, 10))
    for epoch in range(config["epochs"]):
        guesses = probabilities(x_train, weights)
        gradient = x_train.T @ (guesses - np.eye(10)[y_train]) / len(y_train)
        weights -= config["learning_rate"] * gradient
        on_val = probabilities(x_val, weights)
        # The same call with mirrors and without: another process reads the folder and sends it.
        run.log_metrics(
            {
                "train/loss": loss_of(guesses, y_train),
                "val/loss": loss_of(on_val, y_val),
                "val/accuracy": (on_val.argmax(axis=1) == y_val).mean(),
            },
            step=epoch,
        )
    run.log_model({"weights": weights})


def main():
    tracker = ExperimentTracker(
        "digits",
        use_mlflow=MLFLOW_AVAILABLE,
        use_wandb=WANDB_AVAILABLE,
        # This training takes a second, the first look at MLflow several: its end waits for that.
        exit_timeout_s=120,
    )
    with tracker.start_run("mirrored", config=CONFIG) as run:
        train(run, CONFIG)

    print("\nLook further:")
    print(f"    experiments show {run.path}    its numbers, and where it was copied to")
    if MLFLOW_AVAILABLE:
        print("    mlflow ui    the same in MLflow (pip install mlflow), under 'Model training'")


if __name__ == "__main__":
    main()
