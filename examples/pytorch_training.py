"""A usual PyTorch training loop with experiment tracking in it.

    pip install -e ".[examples]" torch
    python examples/pytorch_training.py --epochs 15 --lr 0.003

Trains a small convolutional network on scikit-learn's handwritten digits in a few seconds. The
lines with ``tracker``, ``run`` and ``record`` are ours; the rest is plain PyTorch.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from experiment_tracking import ExperimentTracker


def parse_args():
    parser = argparse.ArgumentParser(description="Train a small CNN on handwritten digits.")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", help="folder of projects (default: the nearest 'experiments')")
    return parser.parse_args()


def load_data(batch_size):
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    labels = torch.tensor(labels)
    x_train, x_val, y_train, y_val = train_test_split(
        images, labels, test_size=0.25, random_state=0, stratify=labels
    )
    train = DataLoader(TensorDataset(x_train, y_train), batch_size, shuffle=True)
    val = DataLoader(TensorDataset(x_val, y_val), batch_size=256)
    return train, val


def make_model():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(32 * 4 * 4, 10),
    )


def train_one_epoch(model, loader, loss_fn, optimizer):
    model.train()
    total = 0.0
    for x, y in loader:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(y)
    return total / len(loader.dataset)


@torch.no_grad()
def evaluate(model, loader, loss_fn):
    model.eval()
    loss = correct = 0.0
    for x, y in loader:
        logits = model(x)
        loss += loss_fn(logits, y).item() * len(y)
        correct += (logits.argmax(dim=1) == y).sum().item()
    return loss / len(loader.dataset), correct / len(loader.dataset)


def main():
    args = parse_args()
    tracker = ExperimentTracker("digits", root=args.root)
    with tracker.start_run("pytorch-cnn") as run:
        run.seed_everything(args.seed)  # torch on all devices, numpy and random; recorded
        train_loader, val_loader = load_data(args.batch_size)
        run.log_input(train_loader.dataset.tensors, "train")  # hashed, not copied
        model = make_model()
        loss_fn = nn.CrossEntropyLoss()
        optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)

        run.log_params(
            {
                "learning_rate": args.lr,
                "batch_size": args.batch_size,
                "seed": args.seed,
                "optimizer": "adamw",
            }
        )
        best_loss = float("inf")
        for epoch in range(args.epochs):
            lr = scheduler.get_last_lr()[0]
            train_loss = train_one_epoch(model, train_loader, loss_fn, optimizer)
            val_loss, val_accuracy = evaluate(model, val_loader, loss_fn)
            scheduler.step()
            run.log_metrics(
                {
                    "train/loss": train_loss,
                    "val/loss": val_loss,
                    "val/accuracy": val_accuracy,
                    "lr": lr,
                },
                step=epoch,
            )
            print(
                f"epoch {epoch:3}  train {train_loss:.4f}  val {val_loss:.4f}  {val_accuracy:.1%}"
            )
            if val_loss < best_loss:
                best_loss = val_loss
                # Saved under the same name, the better weights replace the former ones.
                run.log_model(model, step=epoch, optimizer=optimizer)

    # Back into the module, verified and without pickle.
    tracker.registry.get(run.path).load_model(into=model)
    loss, accuracy = evaluate(model, val_loader, loss_fn)
    print(f"\nBest weights, read back: val/loss {loss:.4f}, val/accuracy {accuracy:.1%}")
    print(f"Kept in {run.path}")


if __name__ == "__main__":
    main()
