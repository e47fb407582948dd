"""What is counted of torch's work: operations and bytes that are worked out by hand."""

import torch

from mechlist.engine.counting import Counter


def test_operations_of_matrix_products():
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    with Counter("cpu") as counter:
        _ = a @ b
        assert counter.flops == 2 * 3 * 5 * 7
        _ = torch.einsum("ab,bc->ac", a, b)
        _ = torch.nn.functional.linear(a, b.T)
        _ = torch.randn(2, 3, 5) @ torch.randn(2, 5, 7)
    assert counter.flops == (3 + 2) * 2 * 3 * 5 * 7


def test_a_product_is_seen_without_gradients_too():
    weight = torch.randn(7, 5)
    with torch.inference_mode(), Counter("cpu") as counter:
        _ = torch.nn.functional.linear(torch.randn(3, 5), weight, torch.randn(7))
    assert counter.flops == 2 * 3 * 5 * 7


def test_the_way_back_takes_two_more():
    a, weight = torch.randn(3, 5, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    with Counter("cpu") as counter:
        (a @ weight).sum().backward()
    assert counter.flops == 3 * 2 * 3 * 5 * 7


def test_bytes_that_are_alive_together():
    given = torch.randn(100)
    with Counter("cpu") as counter:
        first = given + 1
        second = first.view(10, 10).T  # The same memory.
        assert (counter.live, counter.peak) == (400, 400)
        third = second.contiguous()
        assert (counter.live, counter.peak) == (800, 800)
        first.mul_(2)
        del first, second
        assert (counter.live, counter.peak) == (400, 800)
        given.view(4, 25).mul_(2)
        counter.held(1000)
    assert (counter.live, counter.peak) == (400, 1400)
    del third
    assert counter.live == 0


def test_nothing_is_counted_in_a_pause():
    with Counter("cpu") as counter:
        with counter.paused():
            _ = torch.randn(4, 4) @ torch.randn(4, 4)
        assert (counter.flops, counter.peak) == (0, 0)


def test_memory_of_other_devices_is_left_out():
    with Counter("cuda") as counter:
        _ = torch.randn(4, 4) @ torch.randn(4, 4)
    assert (counter.flops, counter.peak) == (2 * 64, 0)
