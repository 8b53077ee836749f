"""Text saved as `<id>.txt`, read as the token embeddings of a Hugging Face model."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding

from dataset import modalities
from dataset._limits import check_cost, naming
from dataset._values import check_values
from utils.errors import BadInput, check_at_least


@cache
def load(model: str) -> tuple[Any, Tensor]:
    """The tokenizer and the input embeddings (tokens, D) of a model, read once for all splits.

    Raises BadInput where they cannot be loaded.
    """
    try:
        from transformers import AutoModel, AutoTokenizer  # only for text
    except ImportError:
        install = "pip install 'transformers>=5,<6'"
        raise BadInput(f"text needs the package transformers: {install}") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        embeddings = AutoModel.from_pretrained(model).get_input_embeddings()
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(
            f"--text_model {model}: cannot be loaded ({reason}); without the net, give a folder "
            "written by save_pretrained of tokenizer and model"
        ) from None
    weights = embeddings.weight.detach().float()
    check_values(weights, lambda: f"--text_model {model}")
    return tokenizer, weights


class Modality(modalities.Modality):
    """Reads UTF-8 text as (D, L, 1) float32: column l is the input embedding, fixed, of token l.

    L = `--text_tokens`: longer texts are cut, shorter ones end with zeros. D, tokenizer and
    embeddings are those of `--text_model`. An encoder sees D channels along a line of L, so a
    convolution is one over words.
    """

    suffixes = (".txt",)

    @staticmethod
    def add_options(parser):
        add = parser.add_argument
        add(
            "--text_model",
            metavar="NAME",
            help="whose tokenizer and input embeddings: a Hugging Face name, or a folder of one",
        )
        add("--text_tokens", type=int, default=64, metavar="L", help="tokens of a text")

    def __init__(self, folder: Path, train: bool, text_model=None, text_tokens=64):
        super().__init__(folder, train)
        check_at_least(1, text_tokens=text_tokens)
        if not text_model:
            raise BadInput("--text_model: needed for text, such as distilbert-base-uncased")
        self.length = text_tokens
        self.tokenizer, table = load(text_model)
        self.table = torch.cat([torch.zeros(1, table.shape[1]), table])  # 0: no token
        self.shape = (table.shape[1], text_tokens, 1)
        self.packed_as = f"{text_tokens} tokens of {text_model}"

    def pack(self, sample_id: str) -> Tensor:
        """(L,) int64, one more than the token's number, 0 after the end."""
        path = self.path(sample_id)
        with naming(path):
            check_cost(bytes_of_text=path.stat().st_size)
            text = path.read_text("utf-8")
            tokens = self.tokenizer(text, truncation=True, max_length=self.length)["input_ids"]
        if not tokens:
            raise BadInput(f"{path}: has no text")
        packed = torch.zeros(self.length, dtype=torch.int64)
        packed[: len(tokens)] = torch.tensor(tokens) + 1
        return packed

    def on_device(self, batch: Tensor) -> Tensor:
        """(B, L) -> (B, D, L, 1) float32."""
        self.table = self.table.to(batch.device)
        return embedding(batch, self.table).transpose(1, 2)[..., None]
