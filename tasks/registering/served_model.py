"""What MLflow serves: picture + question -> answer. It is stored with every version as this source, never pickled.

An input is a table, or a list of records, with the columns `image` and `question`. An image is the bytes of an
encoded picture, the same in base64 (alone or as a `data:` URL), or the path of a file. MLflow's server takes no paths:
whoever may send it requests could have any file read.
"""

import base64
import binascii
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

COLUMNS = ("image", "question")
SERVER = "mlflow.pyfunc.scoring_server.app"
"""The module that MLflow's server alone imports."""


class ServedModel(PythonModel):
    """TinyGPT-V on its backbones, which are looked for where they lay when it was registered, then in the package."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model; raises ConfigError when the backbones are nowhere to be found."""
        from tinygptv_core.answer import load_served, read_card

        folder = Path(context.artifacts["model"])
        self.card = read_card(folder)
        bundled = [Path(context.artifacts["backbones"])] if "backbones" in context.artifacts else []
        places = [*bundled, Path((context.model_config or {})["backbones"])]
        self.trained = load_served(folder, self.card, places, "cpu")

    def predict(
        self, context: PythonModelContext, model_input: pandas.DataFrame, params: dict[str, Any] | None = None
    ) -> Any:
        """A table with one answer a row, in a column `answer`.

        Raises:
            MlflowException: a column is missing, or an image or a question is not one; says which row. A server
                answers such a request with 400 and these words, any other error with a stack trace.
        """
        from tinygptv_core.answer import ask_each

        try:
            asked = [_checked(row, number) for number, row in enumerate(_records(model_input))]
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        return pandas.DataFrame({"answer": ask_each(self.trained, self.card, asked)})


def _records(model_input: Any) -> Sequence[Mapping[str, Any]]:
    rows = model_input.to_dict("records") if isinstance(model_input, pandas.DataFrame) else model_input
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(
            f"the input is {type(model_input).__name__}; it must be a table or a list of records with the columns "
            + " and ".join(COLUMNS)
        )
    return rows


def _checked(row: Mapping[str, Any], number: int) -> tuple[bytes, str]:
    for column in COLUMNS:
        if column not in row:
            there = ", ".join(map(str, row)) or "none"
            raise ValueError(f"row {number} has no column {column}; its columns are {there}")
    question = row["question"]
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"row {number}: question is {question!r}; it must be a text that is not empty")
    return _picture(row["image"], number), str(question)


def _picture(image: object, number: int) -> bytes:
    from tinygptv_core.image import decode

    data = _bytes(image, number)
    try:
        decode(data)
    except ValueError as error:
        raise ValueError(f"row {number}: image: {error}") from error
    return data


def _bytes(image: object, number: int) -> bytes:
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        if SERVER not in sys.modules and os.path.isfile(image):
            return _read(Path(image), number)
        text = os.fspath(image).rpartition("base64,")[2]
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error:
            neither = "neither base64 nor the path of a file (which MLflow's server does not read)"
            raise ValueError(f"row {number}: image is {text[:60]!r}, {neither}") from None
    raise ValueError(
        f"row {number}: image is {type(image).__name__}; it must be a picture's bytes, base64 text, or a path"
    )


def _read(path: Path, number: int) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"row {number}: image {path} cannot be read: {error.strerror}") from error


set_model(ServedModel())
