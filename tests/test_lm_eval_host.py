"""lm_eval with a memory, on a task made of local files."""

import json
import math
import pathlib
import sys

import pytest
import torch

torch.set_num_threads(1)
ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "build/release/python"))
pytest.importorskip("lm_eval", reason="lm_eval is not installed: tools/setup lm_eval")
pytest.importorskip("accelerate", reason="accelerate, which lm_eval's hf model needs, is not installed")

import lm_eval  # noqa: E402
import lm_eval.tasks  # noqa: E402
import tokenizers  # noqa: E402
import transformers  # noqa: E402
from generation_reader import GenerationReader  # noqa: E402
from pointsman.lm_eval import PointsmanLM  # noqa: E402
from pointsman.transformers.score import mean_nll  # noqa: E402
from test_transformers_memory import ends_of_files  # noqa: E402

TASK = """
task: local_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}]
"""


@pytest.fixture
def task(corpus, tmp_path):
    texts = [path.read_text() for path in sorted(ends_of_files(corpus, tmp_path / "texts", 150).iterdir())]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "local_text.yaml").write_text(TASK.format(rows=rows))
    return lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False), texts


def bits_per_byte(model, task):
    report = lm_eval.simple_evaluate(model=model, tasks=["local_text"], task_manager=task, bootstrap_iters=0, log_samples=False)
    return report["results"]["local_text"]["bits_per_byte,none"]


def test_a_task_of_local_files_with_and_without_memory(model, built_memory, task):
    task, texts = task
    hosted = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, experts_implementation="eager")
    plain = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    documents = [plain.encode(text).ids for text in texts]

    def by_hand():
        nll, tokens = mean_nll(hosted, documents, end_of_text=0, context=128)
        return nll * tokens / math.log(2) / sum(len(text.encode()) for text in texts)

    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    same = dict(tokenizer=tokenizer, batch_size=4)
    frozen = bits_per_byte(PointsmanLM(hosted, **same), task)
    assert frozen == pytest.approx(by_hand(), abs=1e-5)
    acting = PointsmanLM(hosted, memory=GenerationReader(built_memory), **same)
    with acting.adapted:
        routed = bits_per_byte(acting, task)
        assert routed == pytest.approx(by_hand(), abs=1e-5) and abs(routed - frozen) > 1e-4
        assert acting.get_model_info()["pointsman"]["written"] > 0
    silent = PointsmanLM(hosted, memory=GenerationReader(built_memory), strength=0, **same)
    with silent.adapted:
        assert bits_per_byte(silent, task) == frozen
