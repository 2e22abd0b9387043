"""The shipped model, its card and the rule of held-out files."""

import hashlib
import pathlib
import re
import xml.etree.ElementTree

import pytest
import torch
import transformers

import card
import export
from heldout import is_held_out
from loss_curve import loss_curve

ROOT = pathlib.Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "models/reference"
SAMPLE = ("docs/architecture.md", "docs/formats.md", "models/README.md", "memory/README.md", "LICENSE")


def test_held_out_rule_gives_the_answers_it_gave_when_the_model_was_trained():
    held_out = ["trace/ftrace.rst.gz", "html/sql-copy.html", "git-doc/git-pull.txt", "pod/perlsub.pod",
                "python3.11/subprocess.py"]
    trained_on = ["html/sql-select.html", "git-doc/git-push.txt", "pod/perlfunc.pod", "python3.11/argparse.py"]
    assert [name for name in held_out + trained_on if is_held_out(pathlib.Path("/any/where") / name)] == held_out


def test_held_out_rule_takes_about_one_file_in_sixteen():
    assert 200 < sum(is_held_out(pathlib.Path(f"/doc/{i}.txt")) for i in range(4096)) < 312


def test_card_has_the_checksums_of_the_files_beside_it():
    listed = dict(re.findall(r"^([0-9a-f]{64})  (\S+)$", (REFERENCE / "README.md").read_text(), re.M))
    found = {hashlib.sha256((REFERENCE / name).read_bytes()).hexdigest(): name for name in card.FILES}
    assert listed == found, "stale card: run tools/reference_model/card.py"


def test_directory_holds_the_listed_files_and_stays_small_enough_for_the_repository():
    assert {path.name for path in REFERENCE.iterdir()} == {*card.FILES, "README.md"}
    assert sum(path.stat().st_size for path in REFERENCE.iterdir()) <= export.SIZE_LIMIT


def test_card_and_picture_tell_the_same_story():
    text, picture = (REFERENCE / "README.md").read_text(), card.PICTURE.read_text()
    rows = re.findall(r"^\| ([\d,]+) \| (\d\.\d\d) \| (\d\.\d\d) \|$", text, re.M)
    tokens, loss, held_out = rows[-1]
    assert f"**{tokens} tokens**" in text
    assert f"training {loss}" in picture and f"held out {held_out}" in picture
    assert "No expert is dead." in text


@pytest.fixture(scope="module")
def reference():
    model, info = transformers.AutoModelForCausalLM.from_pretrained(REFERENCE, dtype=torch.float32, output_loading_info=True)
    return model.eval(), info


def test_reference_model_loads_without_missing_or_unexpected_weights(reference):
    assert not any(reference[1].values()), reference[1]


@torch.no_grad()
def test_reference_model_routes_to_every_expert(reference):
    model, _ = reference
    config = model.config
    tokenizer = transformers.AutoTokenizer.from_pretrained(REFERENCE)
    ids = tokenizer("\n".join((ROOT / name).read_text() for name in SAMPLE), return_tensors="pt")["input_ids"][0]
    rows = ids[: len(ids) // config.max_position_embeddings * config.max_position_embeddings]
    rows = rows.view(-1, config.max_position_embeddings)
    load = torch.zeros(config.num_hidden_layers, config.num_experts)
    for batch in rows.split(8):
        for layer, logits in enumerate(model(batch, output_router_logits=True).router_logits):
            chosen = logits.topk(config.num_experts_per_tok, -1).indices.reshape(-1)
            load[layer] += torch.bincount(chosen, minlength=config.num_experts)
    even = rows.numel() * config.num_experts_per_tok / config.num_experts
    assert load.min() > even / 50, (load.min(1).values / even, rows.numel())


@torch.no_grad()
def test_reference_model_knows_documentation(reference):
    """Its loss on this repository's licence is far below that of a model that knows nothing (ln 4096 = 8.3)."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(REFERENCE)
    ids = tokenizer((ROOT / "LICENSE").read_text(), return_tensors="pt")["input_ids"][:, :256]
    assert reference[0](ids, labels=ids).loss < 4.5  # 3.9 after 12.5 M tokens


def line(step, loss, **more):
    return {"step": step, "tokens": step * 4096, "loss": loss, **more}


def test_log_of_an_interrupted_run_counts_each_step_once(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 50, "loss": 5.0}\n{"step": 100, "loss": 4.0}\n{"step": 150, "loss": 9.0}\n'
                   '{"step": 150, "loss": 3.0}\n{"step": 152, "loss": 16.0}\n')
    lines = card.read_log(log)
    assert [entry["step"] for entry in lines] == [50, 100, 150, 152]
    assert lines[-2]["loss"] == 3.0
    assert lines[-1]["loss"] == pytest.approx(3.5)  # 50 steps at 3, 2 steps at 16


def test_loss_curve_is_a_reproducible_picture_without_foreign_parts():
    log = [line(50, 7.5), line(100, 6.0, held_out=6.2), line(150, 5.0, held_out=5.1)]
    notes = [{"tokens": 300_000, "mark": "a < b", "text": "what happened"}, {"tokens": 1, "text": "no mark"}]
    picture = loss_curve(log, notes)
    assert picture == loss_curve(log, notes)
    root = xml.etree.ElementTree.fromstring(picture)
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a < b", "held out 5.10", "training 5.00"} <= set(words) and "what happened" not in words
    assert "prefers-color-scheme: dark" in picture
    assert re.findall(r"https?://[^\s\"]+", picture) == ["http://www.w3.org/2000/svg"]
