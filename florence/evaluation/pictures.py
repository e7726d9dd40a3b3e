"""The pictures an evaluation leaves in MLflow."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay
from torch import Tensor

from florence.data.streams import EvalDataset


def confusion_figure(class_ids: Tensor, predicted: Tensor, *, names: Sequence[str]) -> Figure:
    """Draws the confusion matrix of (N,) true against (N,) predicted class indices."""
    side = 2 + 0.5 * len(names)
    figure = Figure(figsize=(side, side), layout="constrained")
    ConfusionMatrixDisplay.from_predictions(
        class_ids.cpu().numpy(),
        predicted.cpu().numpy(),
        labels=range(len(names)),
        display_labels=names,
        xticks_rotation="vertical",
        colorbar=False,
        cmap="Blues",
        ax=figure.subplots(),
    )
    return figure


def retrieval_figure(
    dataset: EvalDataset, similarity: Tensor, class_ids: Tensor, *, rows: int = 10, columns: int = 8
) -> Figure:
    """Draws, for each class name as a query, the images found: framed green if right, else red.

    `similarity` is (N images, C class names).
    """
    rows, columns = min(rows, similarity.shape[1]), min(columns, similarity.shape[0])
    figure = Figure(figsize=(1 + 0.8 * columns, 0.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.suptitle("Text to image: the best matches among held-out images")
    for row in range(rows):
        found = similarity[:, row].topk(columns).indices.tolist()
        axes[row, 0].set_ylabel(
            dataset.class_names[row], rotation="horizontal", ha="right", va="center"
        )
        for ax, index in zip(axes[row], found, strict=True):
            ax.imshow(dataset.picture(index))
            ax.set(xticks=[], yticks=[])
            colour = "tab:green" if class_ids[index] == row else "tab:red"
            ax.spines[:].set(color=colour, linewidth=2)
    return figure
