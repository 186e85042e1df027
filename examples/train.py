"""Train a causal language model on text files, byte by byte: a script as many have, that knows nothing of anyoptim.

anyoptim run examples/train.py --config config.json --text README.md --optim soap --output_dir out
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, HfArgumentParser, Trainer, TrainingArguments, set_seed


@dataclass
class DataArguments:
    """What to train on."""

    config: str = field(metadata={"help": "The model's config.json; its vocabulary has at least 256 tokens."})
    text: list[str] = field(metadata={"help": "Text files."})
    block_size: int = field(default=64, metadata={"help": "Bytes of an example."})


class Blocks(Dataset):
    """The text in blocks of so many bytes."""

    def __init__(self, text: bytes, size: int) -> None:
        self.blocks = torch.frombuffer(bytearray(text[: len(text) // size * size]), dtype=torch.uint8).view(-1, size)

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        block = self.blocks[index].long()
        return {"input_ids": block, "labels": block}


def main() -> None:
    """Train, and save the model."""
    parser = HfArgumentParser((DataArguments, TrainingArguments))
    data, args = parser.parse_args_into_dataclasses()
    set_seed(args.seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(data.config))
    text = b"\n".join(Path(each).read_bytes() for each in data.text)
    trainer = Trainer(model=model, args=args, train_dataset=Blocks(text, data.block_size))
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_state()
    trainer.save_model()


if __name__ == "__main__":
    main()
