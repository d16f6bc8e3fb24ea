"""TRL: GRPOTrainer (one optimizer step a batch, no reference model), or transformers.generate alone."""

import tempfile

import child
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, TrainerCallback

job, say, wait = child.start()
tokenizer = child.tokenizer(job["vocab"], job["eos"], job["pad"])
model = AutoModelForCausalLM.from_pretrained(job["weights"], dtype=torch.float32)
rows = len(job["prompts"]) * job["samples"]


def sample():
    """The completions of the batch through generate()."""
    ids = torch.tensor(job["prompts"]).repeat_interleave(job["samples"], 0)
    model.eval()
    say(ready=True)
    while True:
        wait()
        with torch.no_grad():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, temperature=1.0, max_new_tokens=job["new"],
                pad_token_id=job["pad"], eos_token_id=job["eos"],
            )  # fmt: skip
        say(tokens=int((out[:, ids.shape[1] :] != job["pad"]).sum()))


def train():
    """Whole steps of GRPOTrainer."""
    from trl import GRPOConfig, GRPOTrainer

    seen = {}

    class Turns(TrainerCallback):
        def on_train_begin(self, *_, **__):
            say(ready=True)

        def on_step_begin(self, *_, **__):
            wait()

        def on_step_end(self, *_, **__):
            say(**seen)

    def reward(completions, **_):
        return child.rewards(completions, seen)

    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=False, fp16=False, report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True, learning_rate=job["lr"], optim="adamw_torch", max_grad_norm=1.0,
        per_device_train_batch_size=rows, gradient_accumulation_steps=1, num_generations=job["samples"],
        num_iterations=1, max_completion_length=job["new"], beta=0.0, temperature=1.0,
        top_p=1.0, top_k=0, epsilon=0.2, loss_type="dapo", max_steps=10_000, gradient_checkpointing=False,
        dataloader_num_workers=0, shuffle_dataset=False, mask_truncated_completions=False,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": text} for text in child.texts(job)])
    trainer = GRPOTrainer(model=model, args=config, reward_funcs=reward, train_dataset=data,
                          processing_class=tokenizer, callbacks=[Turns()])  # fmt: skip
    trainer.train()


train() if job["what"] == "grpo" else sample()
