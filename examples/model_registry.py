"""From two trainings to the model in production: versions, a gate, a rollback, without a server.

    pip install -e ".[examples]" torch            # or: jax flax optax, for --framework nnx
    python examples/model_registry.py --framework torch

Trains a small and a large network on scikit-learn's handwritten digits. Which one is in production
is then a matter of folders: ``_models/digits`` in the root, with all that was ever done to it.
"""

import argparse

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from experiment_tracking import ExperimentTracker, ModelRegistry
from experiment_tracking.errors import ApprovalError


def parse_args():
    parser = argparse.ArgumentParser(description="Promote a model of handwritten digits.")
    parser.add_argument("--framework", choices=("torch", "nnx"), default="torch")
    parser.add_argument("--root", help="folder of projects (default: the nearest 'experiments')")
    return parser.parse_args()


def load_data():
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    return train_test_split(images, labels, test_size=0.25, random_state=0, stratify=labels)


def make_torch(width):
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def train_torch(model, x, y, steps):
    import torch

    x, y = torch.from_numpy(x), torch.from_numpy(y)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def predict_torch(model, x):
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(x)).argmax(dim=1).numpy()


def make_nnx(width):
    from flax import nnx

    rngs = nnx.Rngs(0)
    return nnx.Sequential(
        nnx.Linear(64, width, rngs=rngs), nnx.relu, nnx.Linear(width, 10, rngs=rngs)
    )


def train_nnx(model, x, y, steps):
    import optax
    from flax import nnx

    def loss_fn(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(loss_fn)(model))

    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    for _ in range(steps):
        step(model, optimizer)


def predict_nnx(model, x):
    return np.asarray(model(x).argmax(axis=1))


FRAMEWORKS = {
    "torch": (make_torch, train_torch, predict_torch),
    "nnx": (make_nnx, train_nnx, predict_nnx),
}


def train_and_register(framework, name, width, steps, root):
    make, train, predict = FRAMEWORKS[framework]
    x_train, x_val, y_train, y_val = load_data()
    with ExperimentTracker("digits", root=root).start_run(name) as run:
        run.log_params({"width": width, "steps": steps, "seed": 0})
        model = make(width)
        train(model, x_train, y_train, steps)
        accuracy = (predict(model, x_val) == y_val).mean()
        run.log_metrics({"val/accuracy": accuracy}, step=steps)
        # The example makes a program of the model, which runs without this file.
        run.log_model(model, input_example=x_val[:8], registered_model_name="digits")
    print(f"{name}: val/accuracy {accuracy:.3f}")


def main():
    args = parse_args()
    train_and_register(args.framework, "small", width=8, steps=40, root=args.root)
    train_and_register(args.framework, "large", width=64, steps=150, root=args.root)

    registry = ModelRegistry(args.root)
    large, small = registry.versions("digits")[:2]  # the newest first
    if not registry.versions("digits", "Production"):
        registry.transition("digits", small.version, "Production", reason="better than none")

    # From now on nothing comes to production without this, and it is on record why.
    registry.set_policy("digits", "Production", require="val/accuracy >= 0.95")
    registry.transition("digits", large.version, "Production", reason="passes the gate")
    try:
        registry.transition("digits", small.version, "Production")
    except ApprovalError as error:
        print(f"refused: {error}")

    # Something is wrong in production: back to what was there before, at once.
    registry.rollback("digits", reason="odd sevens")
    print(f"after the rollback: {registry.get('digits/Production')}")
    registry.transition("digits", large.version, "Production", reason="sevens were the camera's")

    # Elsewhere, with the code of the model, or without it by its program.
    make, _, predict = FRAMEWORKS[args.framework]
    _, x_val, _, y_val = load_data()
    version = registry.get("models:/digits/Production")
    model = version.load(into=make(version.params["width"]))
    by_program = np.asarray(version.load_program()(x_val)).argmax(axis=1)
    assert (by_program == predict(model, x_val)).all()
    print(f"{version.uri} from {version.run}: {(by_program == y_val).mean():.3f} are right")

    for event in registry.history("digits"):
        words = [event.kind, event.version, event.known.get("stage"), event.known.get("reason")]
        print(f"{event.number:3} {event.by}:", *filter(None, words))
    print(f"Kept in {registry.root}/_models/digits")


if __name__ == "__main__":
    main()
