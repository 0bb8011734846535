import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast


@pytest.fixture
def sentence_model(tmp_path_factory):
    """Folder of a sentence-embedding model that knows a few words."""
    folder = tmp_path_factory.mktemp("sentence_model")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "wing", "color", "red", "tail", "man", "made", "bright"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    BertModel(config).save_pretrained(folder)
    return folder
