import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from capacity import models, pretraining

DOCUMENTS = ["the cat sat on the mat. " * 60, "a dog ran to the gate, and it's late. " * 60]


@pytest.fixture(scope="module")
def tokenizer():
    return pretraining.train_tokenizer(DOCUMENTS, vocab_size=280)


def test_tokenizer_has_one_special_token_and_gives_any_text_back(tokenizer):
    assert tokenizer.all_special_tokens == [pretraining.END]
    assert tokenizer.convert_tokens_to_ids(pretraining.END) == 0
    for text in ("  two  spaces\n", "naïve – 東京 🙂", "the cat"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_stream_ends_every_document(tokenizer):
    ids = pretraining.stream(DOCUMENTS, tokenizer)
    ends = np.flatnonzero(ids == 0)
    assert ids.dtype == np.uint16
    assert len(ends) == 2
    assert ends[-1] == len(ids) - 1
    assert tokenizer.decode(ids[: ends[0]].astype(int)) == DOCUMENTS[0]


def test_rate_by_hand():
    schedule = pretraining.Schedule(tokens=2048 * 1100, warmup=100, peak=1.0, floor=0.1)
    assert schedule.steps == 1100
    assert pretraining.rate(0, schedule) == 0.01
    assert pretraining.rate(99, schedule) == 1.0
    assert pretraining.rate(600, schedule) == pytest.approx(0.55)  # half-way down the cosine from 1 to 0.1
    assert pretraining.rate(1100, schedule) == pytest.approx(0.1)


def test_batches_are_whole_blocks_each_once_an_epoch_in_one_order():
    tokens = np.arange(8 * pretraining.CONTEXT, dtype=np.uint16)
    schedule = pretraining.Schedule(tokens=4 * 1024, batch=1024)
    first = list(pretraining.batches(tokens, schedule))
    again = list(pretraining.batches(tokens, schedule))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert {batch.numel() for batch in first} == {1024}
    assert {batch.shape[1] for batch in first} <= set(schedule.lengths)
    assert sorted(torch.cat([batch.flatten() for batch in first]).tolist()) == list(range(8 * pretraining.CONTEXT))
    with pytest.raises(ValueError, match="fewer than one step takes"):
        next(pretraining.batches(tokens[:700], schedule))


def test_weights_and_order_have_seeds_of_their_own_and_defaults_are_as_before():
    tokens = np.arange(64 * pretraining.CONTEXT, dtype=np.uint16) % 280
    schedule = pretraining.Schedule(tokens=8 * 1024, batch=1024)
    config = pretraining.llama(width=8, layers=1, vocab_size=280, heads=1, inner=8)

    def begun(schedule):
        seen = [batch.numpy().tobytes() for batch in pretraining.batches(tokens, schedule)]
        model, _ = pretraining.train(config, tokens, replace(schedule, tokens=0))
        return hash(tuple(seen)), hash(model.lm_head.weight.detach().numpy().tobytes())

    order, weights = begun(schedule)
    assert begun(replace(schedule, seed=0, order_seed=0)) == (order, weights)
    (order_alone, same) = begun(replace(schedule, order_seed=1))
    assert (order_alone != order, same == weights) == (True, True)
    (same, weights_alone) = begun(replace(schedule, seed=1))
    assert (same == order, weights_alone != weights) == (True, True)
    rng = np.random.default_rng(0)  # as it was done with the one seed
    rng.permutation(64)
    lengths = []
    for _ in range(schedule.steps):
        lengths.append(int(rng.choice(schedule.lengths, p=schedule.weights)))
    assert [batch.shape[1] for batch in pretraining.batches(tokens, schedule)] == lengths


def test_a_run_goes_on_from_its_file_and_that_of_another_is_refused(tmp_path):
    tokens = np.arange(16 * pretraining.CONTEXT, dtype=np.uint16) % 280
    schedule = pretraining.Schedule(tokens=6 * 512, batch=512, lengths=(32,), weights=(1.0,), warmup=2)
    config = pretraining.llama(width=8, layers=1, vocab_size=280, heads=1, inner=8)
    whole, _ = pretraining.train(config, tokens, schedule)
    path = tmp_path / "kept.safetensors"

    class Killed(Exception): ...

    def killed(step, loss, model):
        if step == 4:
            raise Killed

    with pytest.raises(Killed):
        pretraining.train(config, tokens, schedule, watch=killed, kept=path, keep_seconds=0.0)
    made = []
    again, _ = pretraining.train(
        config, tokens, schedule, kept=path, watch=lambda step, loss, model: made.append(model is not None)
    )
    assert made == [False] * 4 + [True] * 2
    assert all(torch.equal(one, two) for one, two in zip(whole.parameters(), again.parameters(), strict=True))
    for other in ((config, tokens[::-1], schedule), (config, tokens, replace(schedule, seed=1))):
        with pytest.raises(ValueError, match="is the state of another run"):
            pretraining.train(*other, kept=path)


def test_sequences_begin_with_the_end_token_where_the_schedule_says_so():
    tokens = np.arange(1, 8 * pretraining.CONTEXT + 1, dtype=np.uint16)
    plain = pretraining.Schedule(tokens=4 * 1024, batch=1024)
    for without, begun in zip(
        pretraining.batches(tokens, plain), pretraining.batches(tokens, replace(plain, begin=True)), strict=True
    ):
        assert (begun[:, 0] == pretraining.END_ID).all()
        assert torch.equal(begun[:, 1:], without[:, 1:])


@pytest.mark.slow
def test_every_model_of_a_process_is_trained_compiled_on_request(tokenizer, monkeypatch):
    real, runs = torch.compile, []

    def counted(graph, _):
        return lambda *inputs: runs.append(1) or graph(*inputs)

    monkeypatch.setattr(torch, "compile", lambda model, **options: real(model, backend=counted, **options))
    schedule = pretraining.Schedule(tokens=3 * 512, batch=512, lengths=(32,), weights=(1.0,), warmup=1)
    tokens = pretraining.stream(DOCUMENTS * 4, tokenizer)
    for width in (32, 64):
        config = pretraining.llama(width=width, layers=1, vocab_size=len(tokenizer), heads=1, inner=32)
        eager, _ = pretraining.train(config, tokens, schedule)
        assert not runs
        with torch._dynamo.config.patch(recompile_limit=1):  # graphs of one model; another's don't count
            model, _ = pretraining.train(config, tokens, schedule, compile=True)
        assert len(runs) == schedule.steps
        runs.clear()
        assert all(torch.equal(one, two) for one, two in zip(eager.parameters(), model.parameters(), strict=True))


def test_training_learns_and_what_is_saved_is_what_was_measured(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(
        pretraining.RUNGS, "tiny", {"family": "neox", "width": 32, "layers": 1, "heads": 2, "inner": 64}
    )
    tokens = pretraining.stream(DOCUMENTS * 4, tokenizer)
    schedule = pretraining.Schedule(tokens=40 * 512, batch=512, lengths=(32, 64), weights=(0.5, 0.5), warmup=5)
    curve = pretraining.rung("tiny", tokenizer, tokens, tokens, schedule, bytes_per_token=2.0, out=tmp_path)
    assert curve["tokens"].to_list() == [512 * (i + 1) for i in range(40)]
    assert curve["loss_nats"][0] == pytest.approx(math.log(len(tokenizer)), abs=0.3)  # as good as a guess
    assert curve["loss_nats"][-5:].mean() < curve["loss_nats"][0] - 1.0
    record = json.loads((tmp_path / "tiny" / "training.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny", dtype=torch.float32)
    assert pretraining.held_out_nats(model, tokens) == pytest.approx(record["held_out_nats_per_token"], abs=2e-4)
    bits = record["held_out_nats_per_token"] / math.log(2)
    assert record["held_out_bits_per_byte"] == pytest.approx(bits / 2.0, abs=2e-4)
    assert pretraining.records(tmp_path)["model"].to_list() == ["tiny"]
    assert AutoTokenizer.from_pretrained(tmp_path / "tiny")("the cat")["input_ids"]
    with pytest.raises(ValueError, match="unknown rung 'nope'"):
        pretraining.rung("nope", tokenizer, tokens, tokens, schedule, bytes_per_token=2.0, out=tmp_path)


def test_frequent_words_by_hand():
    assert pretraining.frequent_words(["The dog's the DOG", "it's a dog. A"], 4) == ["a", "dog", "the", "dog's"]


def test_embedded_models_are_the_rungs_and_say_how_they_were_made():
    assert set(models.EMBEDDED) == set(pretraining.RUNGS)
    total = 0
    tokenizers = set()
    for name, folder in models.EMBEDDED.items():
        record = json.loads((folder / "training.json").read_text())
        assert {key: record[key] for key in pretraining.RUNGS[name]} == pretraining.RUNGS[name]
        own = json.loads(json.dumps(pretraining.SCHEDULES.get(name, {})))
        assert {key: record["schedule"].get(key) for key in own} == own
        assert record["tokens_seen"] >= 10_000_000
        readme = (folder / "README.md").read_text()
        assert f"| held out nats per token | {record['held_out_nats_per_token']} |" in readme
        assert max(path.stat().st_size for path in folder.glob("*.safetensors")) <= 12_000_000
        total += sum(path.stat().st_size for path in folder.iterdir())
        tokenizers.add((folder / "tokenizer.json").read_bytes())
    assert total < 40_000_000
    assert len(tokenizers) == 1
