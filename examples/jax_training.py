"""A usual JAX training loop with experiment tracking in it.

    pip install -e ".[examples]" jax
    python examples/jax_training.py --epochs 15 --lr 0.003

Trains a small network on scikit-learn's handwritten digits in a few seconds: pure
functions, ``jit``, ``value_and_grad`` and Adam written out, so that it needs jax alone.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from experiment_tracking import ExperimentTracker

LAYERS = (64, 128, 64, 10)


def parse_args():
    parser = argparse.ArgumentParser(description="Train a small MLP on handwritten digits.")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", help="folder of projects (default: the nearest 'experiments')")
    return parser.parse_args()


def load_data():
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    return train_test_split(images, labels, test_size=0.25, random_state=0, stratify=labels)


def init_params(key):
    keys = jax.random.split(key, len(LAYERS) - 1)
    return [
        {"w": jax.random.normal(k, (n, m)) * jnp.sqrt(2 / n), "b": jnp.zeros(m)}
        for k, n, m in zip(keys, LAYERS[:-1], LAYERS[1:], strict=True)
    ]


def predict(params, x):
    *hidden, last = params
    for layer in hidden:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ last["w"] + last["b"]


def loss_fn(params, x, y):
    log_probs = jax.nn.log_softmax(predict(params, x))
    return -jnp.take_along_axis(log_probs, y[:, None], axis=1).mean()


@jax.jit
def evaluate(params, x, y):
    return loss_fn(params, x, y), (predict(params, x).argmax(axis=1) == y).mean()


@jax.jit
def adam_step(params, state, x, y, lr):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    count, mean, var = state
    count += 1
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, grads)
    var = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, var, grads)
    scale = lr * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
    params = jax.tree.map(lambda p, m, v: p - scale * m / (jnp.sqrt(v) + 1e-8), params, mean, var)
    return params, (count, mean, var), loss


def init_adam(params):
    zeros = jax.tree.map(jnp.zeros_like, params)
    return 0, zeros, zeros


def batches(rng, x, y, batch_size):
    order = rng.permutation(len(x))
    # The last, smaller batch is left out: another shape would compile another program.
    for start in range(0, len(x) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size]
        yield x[chosen], y[chosen]


def main():
    args = parse_args()
    x_train, x_val, y_train, y_val = load_data()
    tracker = ExperimentTracker("digits", root=args.root)
    with tracker.start_run("jax-mlp") as run:
        seed = run.seed_everything(args.seed)  # recorded; jax's key and a rng are the caller's
        run.log_input((x_train, y_train), "train")  # hashed, not copied
        rng = np.random.default_rng(seed)
        params = init_params(jax.random.key(seed))
        state = init_adam(params)

        run.log_params(
            {
                "hidden": LAYERS[1:-1],
                "learning_rate": args.lr,
                "batch_size": args.batch_size,
                "seed": args.seed,
                "optimizer": "adam",
            }
        )
        for epoch in range(args.epochs):
            losses = []
            for x, y in batches(rng, x_train, y_train, args.batch_size):
                params, state, loss = adam_step(params, state, x, y, args.lr)
                losses.append(loss)
            val_loss, val_accuracy = evaluate(params, x_val, y_val)
            # jax scalars go in as they are; this is where Python waits for them.
            run.log_metrics(
                {
                    "train/loss": jnp.stack(losses).mean(),
                    "val/loss": val_loss,
                    "val/accuracy": val_accuracy,
                },
                step=epoch,
            )
            print(f"epoch {epoch:3}  val/loss {val_loss:.4f}  val/accuracy {val_accuracy:.1%}")
        run.log_model(params)  # a tree of arrays, kept as it is
    print(f"\nKept in {run.path}")


if __name__ == "__main__":
    main()
