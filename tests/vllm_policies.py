"""Tiny random policies that a vLLM server loads: real files, seconds to serve."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from srpo_core.policy import checkpoints

VOCABULARY = 320
TEXT = ["the theory of these other themes then gathers the thermal mother further"]


def byte_pair_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level byte-pair tokenizer with merges, so that one text has many token sequences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 10, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        clean_up_tokenization_spaces=False,
    )


def tiny_model(seed: int, *, tied: bool = True) -> LlamaForCausalLM:
    """A random Llama whose distributions are far from uniform; head size 32, the smallest that vLLM serves."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.15,
        tie_word_embeddings=tied,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


def write_version(directory: Path, model: LlamaForCausalLM, version: int) -> Path:
    """`model` as a policy version, written as the trainer writes it."""
    directory.mkdir(parents=True)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    checkpoints.save(
        directory,
        model,
        byte_pair_tokenizer(),
        optimizer,
        checkpoints.Progress(version=version, optimizer_steps=version),
    )
    return directory


@torch.no_grad()
def nudge(model: LlamaForCausalLM, scale: float, seed: int) -> None:
    """Change every weight by noise of `scale`: another policy version."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * scale)
