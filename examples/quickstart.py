"""Train four small networks on handwritten digits, then compare them.

    pip install -e ".[examples]"
    python examples/quickstart.py

Takes a few seconds and needs no network: the digits are 1,797 real scans of 8 x 8 pixels that
come with scikit-learn. The runs go to the nearest folder ``experiments`` that holds runs, in
this folder or one above; without one, to a new ``./experiments``.
"""

import matplotlib.pyplot as plt
from matplotlib.colors import PowerNorm
from sklearn.datasets import load_digits
from sklearn.metrics import ConfusionMatrixDisplay, accuracy_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from experiment_tracking import ExperimentTracker

EPOCHS = 25
SHARED = {"optimizer": "adam", "batch_size": 32, "seed": 0}
CONFIGS = {
    "small": {"hidden": [32], "learning_rate": 1e-3, **SHARED},
    "wide": {"hidden": [128], "learning_rate": 1e-3, **SHARED},
    "wide-slow": {"hidden": [128], "learning_rate": 1e-4, **SHARED},
    "deep": {"hidden": [128, 64], "learning_rate": 1e-3, **SHARED},
}


def load_data():
    images, labels = load_digits(return_X_y=True)
    return train_test_split(images / 16, labels, test_size=0.25, random_state=0, stratify=labels)


def train(run, config):
    x_train, x_val, y_train, y_val = load_data()
    model = MLPClassifier(
        config["hidden"],
        solver=config["optimizer"],
        learning_rate_init=config["learning_rate"],
        batch_size=config["batch_size"],
        random_state=config["seed"],
    )
    for epoch in range(EPOCHS):
        model.partial_fit(x_train, y_train, classes=range(10))  # one pass over the data
        guesses = model.predict_proba(x_val)
        run.log_metrics(
            {
                "train/loss": model.loss_,
                "val/loss": log_loss(y_val, guesses),
                "val/accuracy": accuracy_score(y_val, guesses.argmax(axis=1)),
            },
            step=epoch,
        )

    run.log_figure(draw_confusion(y_val, guesses.argmax(axis=1), config["hidden"]), "confusion")
    # Plain arrays, nested as they are: kept as safetensors, readable without scikit-learn.
    run.log_model({"weights": model.coefs_, "biases": model.intercepts_})


def draw_confusion(labels, guesses, hidden):
    figure, axes = plt.subplots(figsize=(5.5, 5.5))
    display = ConfusionMatrixDisplay.from_predictions(
        labels,
        guesses,
        ax=axes,
        cmap="Blues",
        colorbar=False,
        im_kw={"norm": PowerNorm(0.4)},  # a single mistake beside 45 right ones shows as well
    )
    for zero in display.text_[display.confusion_matrix == 0]:
        zero.set_visible(False)
    # Not the run's name: a rerun has another one, and should leave the very same picture.
    axes.set_title(f"{hidden} hidden: {(labels != guesses).sum()} of {len(labels)} misread")
    axes.tick_params(length=0)
    plt.close(figure)
    return figure


def main():
    tracker = ExperimentTracker("digits")
    for name, config in CONFIGS.items():
        # Leaving the block ends the run: finished, or failed if training raised.
        with tracker.start_run(name) as run:
            run.log_params(config)
            train(run, config)

    # From here on the folders are read, so runs of earlier days and other scripts count too.
    print("\nThe runs of project 'digits', with their last values:\n")
    print(tracker.compare_runs().to_string(index=False))

    best = tracker.get_best_run("val/loss")
    loss = best.metrics["val/loss"]
    print(f"\nBest: {best.name}, val/loss {loss['min']:.4f} in epoch {loss['min_step']}")
    print(f"      {best.path}")
    print("\nLook further:")
    print("    experiments ls              all runs as a table")
    print("    experiments tensorboard     their curves in TensorBoard")


if __name__ == "__main__":
    main()
