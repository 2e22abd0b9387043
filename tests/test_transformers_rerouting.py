"""Online rerouting inside transformers models: sessions learn from their text."""

import pytest
import torch

from pointsman.errors import Error
from pointsman.transformers import Binding, Session
from pointsman.transformers.online import Rerouter, ReroutingOptions
from tiny_moe import EXPERTS, adapted, logits_of, memory, model, text  # noqa: F401


def test_a_session_learns_from_its_text_and_acts_for_its_rows_only(model, memory):
    ids, other = text(1, 32), text(1, 32, seed=4)
    frozen = logits_of(model, torch.cat((ids, other)))
    with adapted(model, memory) as attached:
        session, rerouter = Session(), Rerouter(attached, ReroutingOptions(rule="evidence", steps=3, rate=0.2))
        fed = rerouter.feed(session, ids)
        assert fed.kept and fed.loss_after < fed.loss_before - 0.01
        assert sorted(session.vectors) == [0, 1, 2] and all(vector.shape == (EXPERTS,) for vector in session.vectors.values())
        routed = []
        with attached.bind(Binding(memory, session), None), attached.observed(lambda layer, before, after: routed.append((before, after))):
            rows = logits_of(model, torch.cat((ids, other)))
        loss = torch.nn.functional.cross_entropy(rows[0, :-1], ids[0, 1:]).item()
        assert loss == pytest.approx(fed.loss_after, abs=1e-5)
        # Of the other row nothing is written. Its experts' products are taken together with the first row's, so that their
        # last bits may be others on some processors.
        assert len(routed) == 3 and all(torch.equal(before[32:], after[32:]) for before, after in routed)
        assert all(not torch.equal(before[:32], after[:32]) for before, after in routed)
        assert torch.allclose(rows[1], frozen[1], atol=1e-5)
        again = rerouter.feed(session, ids)  # goes on from what it has learned
        assert again.loss_before == pytest.approx(fed.loss_after, abs=1e-5)
    assert torch.equal(logits_of(model, torch.cat((ids, other))), frozen)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_guard_keeps_the_start_when_the_tail_gets_worse(model):
    ids = text(1, 32)
    start = {layer: torch.full((EXPERTS,), 0.25) for layer in range(3)}
    with adapted(model, None) as attached:
        session = Session(start)
        fed = Rerouter(attached, ReroutingOptions(rule="adam", steps=4, rate=3.0, guard=True, guard_margin=10.0)).feed(session, ids)
        assert not fed.kept and all(torch.equal(session.vectors[layer], vector) for layer, vector in start.items())
        learned = Rerouter(attached, ReroutingOptions(rule="adam", steps=4, rate=3.0)).feed(Session(start), ids)
        assert learned.kept and learned.loss_before == pytest.approx(fed.loss_before)


def test_contexts_of_a_batch_learn_alone(model, memory):
    ids = text(3, 20)
    targets, weights = ids.roll(-1, 1), torch.ones(3, 20).index_fill_(1, torch.tensor([19]), 0.0)
    with adapted(model, memory) as attached:
        for layers in ("all", "most-confident:1", "soft-least", "last:2"):
            rerouter = Rerouter(attached, ReroutingOptions(rule="agreement", steps=2, layers=layers, stop_early=True))
            together = rerouter.learn(ids, targets, weights)
            for row in range(3):
                alone = rerouter.learn(ids[row:row + 1], targets[row:row + 1], weights[row:row + 1])
                assert alone.before[0] == pytest.approx(together.before[row], abs=1e-5)
                for layer in range(3):
                    torch.testing.assert_close(together.vectors[layer][row], alone.vectors[layer][0], atol=2e-4, rtol=0)
        moved = [layer for layer, vector in together.vectors.items() if vector.abs().max() > 0]
        assert moved == [1, 2]  # last:2
        warm = Rerouter(attached).mean_retrieved(ids, weights)
        assert all(vector.abs().max() > 0.01 for vector in warm.values())


@pytest.mark.parametrize("wrong, message", [
    ({"rule": "sgd"}, "rule 'sgd'; it is one of adam"), ({"layers": "first:2"}, "layers 'first:2'; it is")])
def test_rerouting_options_are_checked(wrong, message):
    with pytest.raises(Error, match=message):
        ReroutingOptions(**wrong)


def test_a_session_needs_a_text(model):
    with adapted(model, None) as attached, pytest.raises(Error, match=r"shape \(1, 1\); a session learns from one text of two tokens"):
        Rerouter(attached).feed(Session(), text(1, 1))
