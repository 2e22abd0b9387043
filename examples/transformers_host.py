"""A memory inside transformers: the same text with and without it, and a session that learns from the text.

    python examples/transformers_host.py MODEL MEMORY TEXT_FILE
"""

import sys

import tokenizers
import torch
import transformers

import pointsman
from pointsman.transformers import Binding, Session
from pointsman.transformers.online import Rerouter

folder, directory, text = sys.argv[1:]
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
tokenizer = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
end = model.generation_config.eos_token_id
tokens = [end[0] if isinstance(end, list) else end, *tokenizer.encode(open(text, encoding="utf-8").read()).ids]
ids = torch.tensor([tokens[:model.config.max_position_embeddings]])


@torch.no_grad()
def nats_per_token() -> float:
    return model(input_ids=ids, labels=ids).loss.item()


print(f"frozen          {nats_per_token():.4f}")
with pointsman.attach(model, directory) as adapted:
    print(f"with the memory {nats_per_token():.4f}")
    session = Session()
    learned = Rerouter(adapted).feed(session, ids)
    with adapted.bind(Binding(adapted.default.memory, session)):
        print(f"and a session   {nats_per_token():.4f}  (learned: {learned.loss_before:.4f} -> {learned.loss_after:.4f})")
    print(adapted.counters())
print(f"detached        {nats_per_token():.4f}")
