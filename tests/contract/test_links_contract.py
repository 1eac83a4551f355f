"""What the engine relies on, of the mesh and of its twin alike."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raftcluster import limits
from raftcluster.errors import AddressInUse, FrameError, Rejected
from raftcluster.transport.ports import Down, Message, Up
from tests.contract.links import HELLO, WORLDS, Bench


@pytest.fixture(params=WORLDS)
def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(limits, "LINK_IDLE_SECONDS", 60.0)  # a test that is not run for some seconds loses no message
    made = Bench(WORLDS[request.param]())
    yield made
    made.close()


def kinds(bench: Bench, node: str) -> list[type]:
    return [type(event) for event in bench.seen[node]]


def test_each_pair_gets_one_link_and_both_ends_are_told(bench: Bench) -> None:
    for node in "abc":
        bench.start(node)
    for node in "abc":
        bench.nodes[node].configure(bench.members("abc"))
    bench.until(lambda: all(len(bench.nodes[node].links()) == 2 for node in "abc"), "all linked")
    for node in "abc":
        assert sorted(bench.seen[node]) == [Up(peer) for peer in "abc" if peer != node]
        for peer, info in bench.nodes[node].links().items():
            assert info.dialled == (node > peer), "the greater id dials"
            assert (info.generation, info.own_generation) == (1, 1)
            assert info.hello["product"] == HELLO["product"]


def test_messages_arrive_once_in_the_order_in_which_they_were_sent(bench: Bench) -> None:
    bench.link("ab")
    sizes = [0, 1, 100, 70_000, 3, 500_000, 17, 1_000_000, 5]
    for number, size in enumerate(sizes * 3):
        assert bench.nodes["a"].send("b", {"n": number, "body": b"x" * size})
        assert bench.nodes["b"].send("a", {"n": number})
    bench.until(
        lambda: len(bench.messages("b")) == len(sizes) * 3 and len(bench.messages("a")) == len(sizes) * 3, "all"
    )
    assert bench.messages("b") == [{"n": n, "body": b"x" * size} for n, size in enumerate(sizes * 3)]
    assert bench.messages("a") == [{"n": n} for n in range(len(sizes) * 3)]


def test_a_message_is_a_copy(bench: Bench) -> None:
    bench.link("ab")
    message = {"list": [1]}
    bench.nodes["a"].send("b", message)
    message["list"].append(2)
    bench.until(lambda: bench.messages("b"), "arrival")
    assert bench.messages("b") == [{"list": [1]}]


def test_a_link_that_is_dropped_goes_down_at_both_ends_and_comes_up_again(bench: Bench) -> None:
    bench.link("ab")
    bench.nodes["a"].drop("b", "it sends nonsense")
    bench.nodes["a"].drop("c", "there is none")
    assert not bench.nodes["a"].links()
    assert not bench.nodes["a"].send("b", {"n": 1})
    bench.until(lambda: bench.nodes["a"].links() and bench.nodes["b"].links(), "linked again")
    assert bench.seen["a"] == [Down("b", "it sends nonsense"), Up("b")]
    assert kinds(bench, "b") == [Down, Up]


def test_without_a_link_nothing_is_accepted(bench: Bench) -> None:
    bench.start("a")
    assert not bench.nodes["a"].send("b", {"n": 1})
    assert not bench.nodes["a"].send("nobody", {"n": 1})


def test_a_full_queue_refuses_and_takes_again_once_it_is_empty(bench: Bench) -> None:
    bench.link("ab")
    message = {"body": b"x" * limits.MIB}
    accepted = 0
    while bench.nodes["a"].send("b", message):
        accepted += 1
        assert accepted < 100
    assert (accepted + 1) * limits.MIB > limits.LINK_QUEUE_BYTES - limits.MIB
    assert bench.nodes["a"].links()["b"].queued <= limits.LINK_QUEUE_BYTES
    bench.until(lambda: len(bench.messages("b")) == accepted, "what was accepted arrives")
    assert bench.nodes["a"].links()["b"].queued == 0
    assert bench.nodes["a"].send("b", message)


def test_a_message_longer_than_a_frame_is_the_senders_error(bench: Bench) -> None:
    bench.link("ab")
    with pytest.raises(FrameError):
        bench.nodes["a"].send("b", {"body": b"x" * limits.FRAME_BYTES})
    assert bench.nodes["a"].send("b", {"n": 1}), "and the link is as good as before"
    bench.until(lambda: bench.messages("b") == [{"n": 1}], "arrival")


def test_removal_closes_the_link_and_lets_no_other_come_up(bench: Bench) -> None:
    bench.link("abc")
    for node in "ab":
        bench.nodes[node].configure(bench.members("ab"))
    bench.until(lambda: all("c" not in bench.nodes[node].links() for node in "ab"), "links of c are down")
    bench.until(lambda: not bench.nodes["c"].links(), "c sees it, too")
    assert next(event for event in bench.seen["a"] if not isinstance(event, Message)).peer == "c"
    bench.until(lambda: bench.nodes["c"].refusals, "c tries again and is refused")
    assert not bench.nodes["c"].links()
    assert bench.nodes["a"].send("b", {"n": 1}), "the others go on"
    assert not bench.nodes["a"].send("c", {"n": 1})


def test_another_key_than_the_pinned_one_closes_the_link(bench: Bench) -> None:
    bench.link("ab")
    bench.nodes["a"].configure(bench.members("ab", generations=[2]))
    bench.until(lambda: not bench.nodes["a"].links() and not bench.nodes["b"].links(), "down")
    bench.nodes["a"].configure(bench.members("ab"))
    bench.until(lambda: bench.nodes["a"].links() and bench.nodes["b"].links(), "up again")


def test_relinking_shows_the_new_generation_and_drops_what_the_old_link_held(bench: Bench) -> None:
    bench.link("ab")
    for node in "ab":
        bench.nodes[node].configure(bench.members("ab", generations=[1, 2]))
        bench.nodes[node].use(bench.world.identity(node, 1), bench.world.roots([1, 2]))
    for node in "ab":
        bench.nodes[node].use(bench.world.identity(node, 2), bench.world.roots([1, 2]))
    bench.step()
    assert bench.nodes["a"].links()["b"].own_generation == 1, "links stay until they are told"
    bench.forget()
    bench.nodes["a"].relink(["b"])

    def renewed() -> bool:
        infos = [bench.nodes["a"].links().get("b"), bench.nodes["b"].links().get("a")]
        return all(info is not None and (info.generation, info.own_generation) == (2, 2) for info in infos)

    bench.until(renewed, "generation 2 on both ends")
    assert kinds(bench, "a")[:2] == [Down, Up]
    assert kinds(bench, "b")[:2] == [Down, Up]
    for node in "ab":
        bench.nodes[node].use(bench.world.identity(node, 2), bench.world.roots([2]))
        bench.nodes[node].configure(bench.members("ab", generations=[2]))
    bench.forget()
    assert bench.nodes["a"].send("b", {"n": 1})
    bench.until(lambda: bench.messages("b") == [{"n": 1}], "it carries on after the old generation is gone")
    assert kinds(bench, "b") == [Message]


def test_a_retired_generations_links_are_closed(bench: Bench) -> None:
    bench.link("ab")
    bench.nodes["a"].configure(bench.members("ab", generations=[1, 2]))
    bench.nodes["a"].use(bench.world.identity("a", 2), bench.world.roots([2]))
    bench.until(lambda: not bench.nodes["a"].links() and not bench.nodes["b"].links(), "b still shows generation 1")
    assert Down in kinds(bench, "a")


def test_a_restarted_node_is_linked_again_and_gets_nothing_of_before(bench: Bench) -> None:
    bench.link("ab")
    for _ in range(10):
        bench.nodes["b"].send("a", {"before": True})
    bench.nodes["a"].close()
    bench.start("a").configure(bench.members("ab"))
    bench.nodes["b"].configure(bench.members("ab"))
    bench.until(lambda: bench.nodes["a"].links() and bench.nodes["b"].links(), "linked")
    assert bench.nodes["b"].send("a", {"after": True})
    bench.until(lambda: bench.messages("a"), "arrival")
    assert bench.messages("a") == [{"after": True}]
    assert [type(event) for event in bench.seen["b"]][-2:] == [Down, Up]


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        ({**HELLO, "product": "other/1"}, "product"),
        ({**HELLO, "schema": {"counter": 2}}, "schema"),
        ({**HELLO, "schema": {}}, "schema"),
    ],
)
def test_what_may_not_form_one_cluster_is_refused(bench: Bench, hello: dict[str, object], reason: str) -> None:
    bench.start("a")
    bench.start("b", hello=hello)
    for node in "ab":
        bench.nodes[node].configure(bench.members("ab"))
    bench.until(lambda: bench.nodes["b"].refusals.get(reason), "the refusal")
    assert not bench.nodes["a"].links() and not bench.nodes["b"].links()


def test_another_version_of_the_product_is_welcome(bench: Bench) -> None:
    bench.start("a")
    bench.start("b", hello={**HELLO, "product": "test/2"})
    for node in "ab":
        bench.nodes[node].configure(bench.members("ab"))
    bench.until(lambda: bench.nodes["a"].links() and bench.nodes["b"].links(), "linked")
    assert bench.nodes["a"].links()["b"].hello["product"] == "test/2"


def test_an_address_that_is_taken_is_named(bench: Bench) -> None:
    first = bench.start("a")
    taken = bench.world.make("b", 1, HELLO, first.address)
    try:
        with pytest.raises(AddressInUse, match=str(first.address[1])):
            taken.start()
    finally:
        taken.close()


def test_credentials_that_do_not_fit_change_nothing(bench: Bench) -> None:
    bench.link("ab")
    with pytest.raises(Rejected):
        bench.nodes["a"].use(bench.world.identity("a", 2), bench.world.roots([1]))
    with pytest.raises(Rejected):
        bench.nodes["a"].use(bench.world.identity("b", 1), bench.world.roots([1]))
    assert bench.nodes["a"].send("b", {"n": 1})
    bench.until(lambda: bench.messages("b") == [{"n": 1}], "arrival")


def test_closing_twice_is_closing(bench: Bench) -> None:
    bench.link("ab")
    bench.nodes["a"].close()
    bench.nodes.pop("a").close()
    bench.until(lambda: not bench.nodes["b"].links(), "b sees it")
