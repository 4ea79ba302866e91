"""A Hugging Face encoder that is made in a moment: random weights, a vocabulary of the small shop's words."""

from pathlib import Path

WORDS = ("green", "tea", "leaves", "cordless", "power", "drill", "leaf", "bolt", "drinks", "tools", "new", ".", ">")


def tiny_encoder(folder: Path, layers: int = 2) -> Path:
    """Write a BERT of a few thousand weights with its WordPiece tokenizer, and return its folder."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *"abcdefghijklmnopqrstuvwxyz0123456789"]
    vocabulary += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        BertModel(config).save_pretrained(folder)
    return folder
