import pytest
import torch
from torch.nn import functional

from tinygptv_core import loss
from tinygptv_core.loss import summed_cross_entropy

K, V = 7, 11
LABELS = torch.tensor([0, 10, 3, 3, 5, 9, 1])


@pytest.fixture(params=[1 << 20, 2 * V, 1], ids=["all at once", "two rows at once", "one row at once"])
def at_once(request, monkeypatch):
    monkeypatch.setattr(loss, "NUMBERS_AT_ONCE", request.param)


def some_logits(dtype: torch.dtype) -> torch.Tensor:
    return torch.linspace(-30, 30, K * V).sin().mul(8).reshape(K, V).to(dtype).requires_grad_()


def loss_and_gradient(of: torch.Tensor, summed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    (gradient,) = torch.autograd.grad(summed * 0.3, of)
    return summed.detach(), gradient


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_loss_and_gradient_are_torchs_own(dtype):
    """In 16 bits the gradient is computed in float32 and rounded once, as torch's own is."""
    ours, theirs = some_logits(dtype), some_logits(dtype)
    # What is learned stands before: logits themselves are no leaf.
    summed, gradient = loss_and_gradient(ours, summed_cross_entropy(ours * 1, LABELS))
    expected, wanted = loss_and_gradient(
        theirs, functional.cross_entropy((theirs * 1).float(), LABELS, reduction="sum")
    )
    assert summed.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(summed, expected)
    torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=1e-6)
    assert float(gradient.abs().max()) > 0.1


@pytest.mark.parametrize(("numbers", "rows"), [(3 * V, [3, 3, 1]), (3 * V - 1, [2, 2, 2, 1]), (V - 1, [1] * 7)])
def test_so_many_rows_are_looked_at_at_once(numbers, rows, monkeypatch):
    monkeypatch.setattr(loss, "NUMBERS_AT_ONCE", numbers)
    seen: list[int] = []
    whole = functional.cross_entropy

    def noted(some_KV: torch.Tensor, *given: torch.Tensor, **named: str) -> torch.Tensor:
        seen.append(len(some_KV))
        return whole(some_KV, *given, **named)

    monkeypatch.setattr(functional, "cross_entropy", noted)
    summed_cross_entropy(some_logits(torch.float32), LABELS)
    assert seen == rows


def test_whoever_keeps_the_gradient_keeps_no_graph():
    made, kept = some_logits(torch.float32) * 1, list[torch.Tensor]()
    made.register_hook(kept.append)
    summed_cross_entropy(made, LABELS).backward()
    assert kept[0].grad_fn is None


def test_the_gradient_lies_where_the_logits_lay():
    logits = some_logits(torch.float32)
    made = logits * 1
    (gradient,) = torch.autograd.grad(summed_cross_entropy(made, LABELS), made)
    assert gradient.data_ptr() == made.data_ptr()


def test_there_is_one_way_back():
    made = some_logits(torch.float32) * 1
    summed = summed_cross_entropy(made, LABELS)
    summed.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        summed.backward()


def test_no_target_is_no_loss():
    logits = torch.zeros(0, V, requires_grad=True)
    summed = summed_cross_entropy(logits * 1, torch.zeros(0, dtype=torch.long))
    summed.backward()
    assert summed == 0
    assert logits.grad is not None and logits.grad.shape == (0, V)


def test_without_gradients_the_logits_stay_as_they_are():
    with torch.no_grad():
        logits = some_logits(torch.float32).detach()
        before = logits.clone()
        summed_cross_entropy(logits, LABELS)
    assert torch.equal(logits, before)


def test_what_is_infinite_stays_so():
    logits = some_logits(torch.float32).detach()
    logits[2, 3] = -torch.inf
    assert summed_cross_entropy(logits, LABELS) == torch.inf
