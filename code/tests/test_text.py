"""Text as a modality: tokens of a Hugging Face tokenizer, embedded as its model does."""

import pytest
import torch
from commands import QUICK

import evaluate
import train
from dataset.modalities.text import Modality
from utils.errors import BadInput

WIDTH, WORDS = 6, ["[UNK]", "[PAD]", "the", "cat", "dog", "barks", "purrs"]

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a tokenizer of seven words and a tiny model, written here."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("model")
    words = models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(folder)
    size = dict(hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    config = transformers.BertConfig(vocab_size=len(WORDS), **size)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def reader(model, tmp_path):
    (tmp_path / "a.txt").write_text("the cat purrs")
    (tmp_path / "b.txt").write_text("the bird barks the dog barks")
    return Modality(tmp_path, True, str(model), 4)


def test_tokens_become_their_embeddings_and_the_rest_zero(reader, model):
    batch = torch.stack([reader.read("a"), reader.read("b")])
    assert batch.tolist() == [[3, 4, 7, 0], [3, 1, 6, 3]]  # one more than the word's number
    table = transformers.BertModel.from_pretrained(model).embeddings.word_embeddings.weight
    embedded = reader.on_device(batch)
    assert embedded.shape == (2, WIDTH, 4, 1) and reader.shape == (WIDTH, 4, 1)
    torch.testing.assert_close(embedded[0, :, 1, 0], table[WORDS.index("cat")].detach())
    torch.testing.assert_close(embedded[1, :, 1, 0], table[WORDS.index("[UNK]")].detach())
    assert not embedded[0, :, 3].any()


def test_text_is_trained_on_beside_another_modality(model, own_data, tmp_path, capsys):
    (own_data / "text").mkdir()
    for photo in (own_data / "photo").iterdir():
        (own_data / "text" / f"{photo.stem}.txt").write_text("the cat purrs")
    argv = ["--dataset", "folder", "--data_root", str(own_data), "--ckpt_path", str(tmp_path)]
    argv += ["--modalities", "text,photo", "--text_model", str(model), "--text_tokens", "8"]
    train.main([*argv, *QUICK, "--batch_size", "4", "--epochs", "1", "--run_name", "run"])
    assert "text encoder" in capsys.readouterr().out
    evaluate.main([str(tmp_path / "run"), "--probe", "missing"])
    assert "text" in capsys.readouterr().out


def test_a_model_that_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(BadInput, match="--text_model /nowhere: cannot be loaded .*save_pretrained"):
        Modality(tmp_path, True, text_model="/nowhere", text_tokens=4)
