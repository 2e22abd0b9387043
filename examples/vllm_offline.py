"""One vLLM, with and without a memory: the mean loss on texts of its subject, and what it writes.

    python examples/vllm_offline.py MODEL MEMORY TEXT...

TEXT is any file; those that the memory was not built from say more. Serving over HTTP needs no code:

    POINTSMAN_MEMORY=MEMORY python -m vllm.entrypoints.openai.api_server --model MODEL
"""

import os
import pathlib
import sys


def main(model: str, memory: str, texts: list[str]) -> None:
    os.environ["POINTSMAN_MEMORIES"] = f"subject={memory}"  # before vLLM starts its engine

    from vllm import LLM, SamplingParams

    llm = LLM(model, dtype="float32", enforce_eager=True)
    length = llm.llm_engine.model_config.max_model_len - 40
    tokenizer = llm.get_tokenizer()
    read = lambda text: tokenizer.encode(pathlib.Path(text).read_text(errors="replace"), add_special_tokens=False)
    # As a memory was built: a document follows the end of another.
    prompts = [{"prompt_token_ids": ids} for text in texts if len(ids := [tokenizer.eos_token_id, *read(text)][:length]) > 1]
    for name, asked in (("frozen", None), ("memory", {"memory": "subject"})):
        params = SamplingParams(temperature=0, max_tokens=32, prompt_logprobs=0, extra_args=asked)
        outputs = llm.generate(prompts, params, use_tqdm=False)
        losses = [-place[token].logprob for output in outputs
                  for token, place in zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:])]
        print(f"{name}: {sum(losses) / len(losses):.4f} nats a token over {len(losses)} tokens; goes on: {outputs[0].outputs[0].text!r}")
    print("counters:", llm.collective_rpc("pointsman_counters")[0])


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
