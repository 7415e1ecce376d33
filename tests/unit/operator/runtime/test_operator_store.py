"""Objects in memory: always what the last list and the events since say, and the indexes with them."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rlhf_operator.runtime.kinds import Key, Object, key_of
from rlhf_operator.runtime.store import OWNER, Change, Store, trim


def pod(name: str, version: int, uid: str = "u", owner: str | None = None, controller: bool = True) -> Object:
    metadata: dict[str, Any] = {"namespace": "n", "name": name, "uid": uid, "resourceVersion": str(version)}
    if owner is not None:
        metadata["ownerReferences"] = [{"uid": owner, "controller": controller}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}


def test_a_version_that_is_kept_already_is_no_change() -> None:
    store = Store()
    assert store.put(pod("a", 1)) == Change(Key("n", "a"), None, pod("a", 1))
    assert store.put(pod("a", 1)) is None
    assert store.put(pod("a", 2)) == Change(Key("n", "a"), pod("a", 1), pod("a", 2))


def test_children_are_found_by_the_uid_of_the_owner_that_controls_them() -> None:
    store = Store()
    store.put(pod("a", 1, owner="job-1"))
    store.put(pod("b", 2, owner="job-1", controller=False))
    store.put(pod("c", 3, owner="job-2"))
    assert [key_of(child).name for child in store.by(OWNER, "job-1")] == ["a"]
    store.put(pod("a", 4, owner="job-2"))
    assert store.by(OWNER, "job-1") == []
    assert [key_of(child).name for child in store.by(OWNER, "job-2")] == ["c", "a"]


def test_an_index_sees_the_whole_object_and_memory_only_what_is_kept() -> None:
    def bare(obj: Object) -> Object:
        return {"metadata": {key: obj["metadata"][key] for key in ("namespace", "name", "resourceVersion")}}

    store = Store(bare)
    store.put(pod("a", 1, owner="job-1"))
    assert store.by(OWNER, "job-1") == [{"metadata": {"namespace": "n", "name": "a", "resourceVersion": "1"}}]


def test_bookkeeping_is_not_kept_and_the_object_given_is_not_changed() -> None:
    obj = pod("a", 1)
    obj["metadata"] |= {
        "managedFields": [{"manager": "x"}],
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "mine": "1"},
    }
    trimmed = trim(obj)
    assert trimmed["metadata"] == {**pod("a", 1)["metadata"], "annotations": {"mine": "1"}}
    assert "managedFields" in obj["metadata"]


NAMES = st.sampled_from("abcd")
OWNERS = st.sampled_from([None, "x", "y"])
OBJECT = st.tuples(NAMES, OWNERS)
STEP = st.one_of(
    st.tuples(st.just("put"), OBJECT),
    st.tuples(st.just("drop"), NAMES),
    st.tuples(st.just("list"), st.dictionaries(NAMES, OWNERS)),
)


@given(st.lists(STEP, max_size=40))
def test_contents_indexes_and_changes_agree_after_any_history(steps: list[Any]) -> None:
    store, model, heard = Store(), dict[Key, Object](), dict[Key, Object]()

    def hear(change: Change | None) -> None:
        if change is None:
            return
        assert heard.get(change.key) == change.old
        assert change.old is not None or change.new is not None
        if change.new is None:
            del heard[change.key]
        else:
            heard[change.key] = change.new

    for version, (what, value) in enumerate(steps):
        if what == "put":
            new = pod(value[0], version, owner=value[1])
            model[key_of(new)] = new
            hear(store.put(new))
        elif what == "drop":
            model.pop(Key("n", value), None)
            hear(store.drop(Key("n", value)))
        else:
            model = {Key("n", name): pod(name, version, owner=owner) for name, owner in value.items()}
            for new in model.values():
                hear(store.put(new, listed=True))
            for change in store.drop_others(set(model)):
                hear(change)
        assert {key_of(obj): obj for obj in store.values()} == model == heard
        assert len(store) == len(model)
        for owner in ("x", "y"):
            names = {key_of(obj).name for obj in store.by(OWNER, owner)}
            owned = (
                obj for obj in model.values() if obj["metadata"].get("ownerReferences", [{}])[0].get("uid") == owner
            )
            assert names == {key_of(obj).name for obj in owned}
