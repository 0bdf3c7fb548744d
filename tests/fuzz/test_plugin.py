"""The C plugin, built with sanitizers, given any environment, input and answer: it ends, and says valid CNI."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from berth_node.dataplane import pairs
from berth_node.names import host_ifname
from berth_node.seams import FIRST_PAIR_INDEX
from berth_node.skel import _arguments
from berth_node.wire import decode_body
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.build_plugin import SOURCES
from tests.fuzz import inputs
from tests.sandbox.cni import parse_error, parse_versions

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no cc: sanitizers need the system's compiler")
_LIMIT = 60.0


@dataclass
class Answer:
    """What a pretended agent sends: a text, and descriptors of these kinds (bytes: a memfd with them)."""

    text: bytes = b"berth/1 0"
    descriptors: tuple[bytes | str, ...] = (b"",)
    silent: bool = False


@dataclass
class Agent:
    """A socket at which one answer is given to everybody, and the requests that came."""

    folder: Path
    plugin: Path
    answer: Answer = field(default_factory=Answer)
    requests: list[bytes] = field(default_factory=list, repr=False)
    listener: socket.socket = field(default_factory=lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                _, descriptors, _, _ = socket.recv_fds(connection, 64, 2)
                if descriptors:
                    with os.fdopen(os.dup(descriptors[0]), "rb") as body:
                        body.seek(0)
                        self.requests.append(body.read())
                for descriptor in descriptors:
                    os.close(descriptor)
                if self.answer.silent:
                    connection.recv(1)  # until the plugin has had enough
                else:
                    self._reply(connection)

    def _reply(self, connection: socket.socket) -> None:
        made = [_descriptor(kind) for kind in self.answer.descriptors]
        with contextlib.suppress(OSError):
            socket.send_fds(connection, [self.answer.text], made, socket.MSG_NOSIGNAL)
        for descriptor in made:
            os.close(descriptor)

    def run(self, environment: dict[str, str], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
        # symbolizing would take longer than all the rest
        options = {"ASAN_OPTIONS": "symbolize=0:exitcode=77", "UBSAN_OPTIONS": "halt_on_error=1:exitcode=77"}
        whole = {os.fsencode(k): os.fsencode(v) for k, v in (environment | options).items()}
        return subprocess.run([self.plugin], env=whole, input=stdin, capture_output=True, timeout=_LIMIT, check=False)


def _descriptor(kind: bytes | str) -> int:
    if isinstance(kind, bytes):
        descriptor = os.memfd_create("answer")
        os.write(descriptor, kind)
        return descriptor
    if kind == "pipe":
        ours, theirs = os.pipe()
        os.close(theirs)
        return ours
    return os.open({"folder": "/"}[kind], os.O_RDONLY)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """For answers that must be passed on: the plugin waits long enough for a busy machine. It never finds the time to
    look for one awake, as when it is interrupted just then."""
    with pretended(tmp_path_factory.mktemp("p"), 200, "-DLOOK_US=0") as made:
        yield made


@pytest.fixture(scope="module")
def useless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """For answers of no use: the plugin's second has 4 ms, so that it soon has had enough of them."""
    with pretended(tmp_path_factory.mktemp("p"), 4) as made:
        yield made


@contextlib.contextmanager
def pretended(folder: Path, second: int, *more: str) -> Iterator[Agent]:
    plugin = folder / "berth"
    argv = ["cc", "-std=gnu11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    argv += [f'-DRUN="{folder}"', f"-DSECOND={second}", *more, "-o", str(plugin), *map(str, SOURCES)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cc has no sanitizers here: {done.stderr[:300]}")
    made = Agent(folder, plugin)
    made.listener.bind(str(folder / "cni.sock"))
    made.listener.listen(64)
    thread = threading.Thread(target=made.serve)
    thread.start()
    yield made
    made.listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    made.listener.close()


def expect_valid(done: subprocess.CompletedProcess[bytes], command: str) -> None:
    """What the plugin itself says when no agent has said anything."""
    assert done.stderr == b"", done.stderr
    assert done.returncode in (0, 1), done
    if done.returncode:
        parse_error(done.stdout, "1.1.0")
    elif command == "VERSION":
        parse_versions(done.stdout, "1.1.0")
    else:
        assert done.stdout == b""


@settings(settings.get_profile("fuzz"))
@given(inputs.environments, inputs.stdin)
def test_any_request_reaches_the_agent_whole(agent: Agent, environment: dict[str, str], stdin: bytes) -> None:
    agent.answer, said = Answer(b"berth/1 0", (b"what the agent says",)), len(agent.requests)
    done = agent.run(environment, stdin)
    if environment["CNI_COMMAND"] not in inputs.COMMANDS:
        expect_valid(done, "")
        assert done.returncode == 1
        return
    assert (done.returncode, done.stdout, done.stderr) == (0, b"what the agent says", b"")
    assert len(agent.requests) == said + 1
    assert decode_body(agent.requests[-1]) == (environment | {"BERTH_TAKES": "short"}, stdin)


_wrong = st.sampled_from([b"", b"berth/1", b"berth/1 -1", b"berth/1 256", b"berth/1 99999999999999999999"])
_codes = st.sampled_from([b"berth/1 0", b"berth/1 1"])
_descriptors = st.lists(st.sampled_from([b"", b"{}", "pipe", "folder"]), max_size=3)
_no_answers = st.one_of(
    st.builds(Answer, _wrong | st.binary(max_size=70), _descriptors.map(tuple)),
    st.builds(Answer, _codes, _descriptors.filter(lambda d: not d or isinstance(d[0], str)).map(tuple)),
    st.just(Answer(silent=True)),
)


@settings(settings.get_profile("fuzz"))
@given(st.sampled_from(inputs.COMMANDS), st.sampled_from([0, 1]), st.binary(max_size=3000))
def test_an_answer_is_printed_as_it_is(agent: Agent, command: str, code: int, text: bytes) -> None:
    agent.answer = Answer(b"berth/1 %d" % code, (text, b"not this"))
    done = agent.run({"CNI_COMMAND": command}, b"")
    assert (done.returncode, done.stdout, done.stderr) == (code, text, b"")


@settings(settings.get_profile("fuzz"))
@given(st.sampled_from(inputs.COMMANDS), st.sampled_from([0, 1]), st.binary(max_size=8192))
def test_an_answer_in_the_message_itself_is_printed_as_it_is(
    agent: Agent, command: str, code: int, text: bytes
) -> None:
    agent.answer = Answer(b"berth/1 %d\n%b" % (code, text), ())
    done = agent.run({"CNI_COMMAND": command}, b"")
    assert (done.returncode, done.stdout, done.stderr) == (code, text, b"")


@settings(settings.get_profile("fuzz"))
@given(st.sampled_from(inputs.COMMANDS), _no_answers)
def test_what_is_no_answer_is_never_taken_for_a_result(useless: Agent, command: str, answer: Answer) -> None:
    useless.answer = answer
    expect_valid(useless.run({"CNI_COMMAND": command}, b""), command)


@settings(settings.get_profile("fuzz"), max_examples=10)
@given(st.sampled_from(inputs.COMMANDS), inputs.stdin)
def test_without_an_agent_the_answer_is_valid_too(useless: Agent, command: str, stdin: bytes) -> None:
    there, away = useless.folder / "cni.sock", useless.folder / "away"
    there.rename(away)
    try:
        expect_valid(useless.run({"CNI_COMMAND": command}, stdin), command)
    finally:
        away.rename(there)


# ------------------------------------------------------------------------------------------------ pairs of links

_HERE = os.stat("/proc/self/ns/net").st_ino
_FORM = pairs.form(_HERE, 9001)
_ADD = {"CNI_COMMAND": "ADD", "CNI_IFNAME": "eth0", "CNI_NETNS": "/nowhere"}
"""Without a namespace no link is made, whatever the form says."""
_words = st.text("abcXYZ019-.", min_size=1, max_size=70)
_pairs_of_args = st.lists(
    st.tuples(
        st.sampled_from(["K8S_POD_NAME", "K8S_POD_NAMESPACE", "K8S_POD_UID", "IgnoreUnknown", "K8S_POD_NAM", ""]),
        _words,
    )
)


def asked_with(agent: Agent, form: bytes | None, environment: dict[str, str]) -> dict[str, str]:
    """What the agent was told by a plugin that found this form."""
    place = agent.folder / "pair"
    place.unlink(missing_ok=True)
    if form is not None:
        place.write_bytes(form)
    agent.answer, said = Answer(b"berth/1 0", (b"",)), len(agent.requests)
    done = agent.run(_ADD | environment, b"{}")
    assert (done.returncode, done.stderr) == (0, b"")
    (request,) = agent.requests[said:]
    place.unlink(missing_ok=True)
    return decode_body(request)[0]


@settings(settings.get_profile("fuzz"))
@given(st.text("abcdef0123456789", min_size=1, max_size=130), _pairs_of_args)
def test_plugin_and_agent_give_a_pods_link_the_same_name(
    agent: Agent, container: str, arguments: list[tuple[str, str]]
) -> None:
    text = ";".join(f"{k}={v}" for k, v in arguments)
    told = asked_with(agent, _FORM, {"CNI_CONTAINERID": container, "CNI_ARGS": text})
    pod = _arguments(text)
    wanted = host_ifname(container, "eth0", pod.get("K8S_POD_NAMESPACE", ""), pod.get("K8S_POD_NAME", ""))
    index, mtu, name = told["BERTH_LINK"].split()
    assert (name, mtu) == (wanted, "9001")
    assert FIRST_PAIR_INDEX <= int(index) < 2 * FIRST_PAIR_INDEX
    assert int(index) % 2 == 0


@pytest.mark.parametrize(
    ("form", "changes"),
    [
        (None, {}),
        (pairs.form(_HERE + 1, 9001), {}),
        (_FORM[:-1], {}),
        (_FORM + b"x", {}),
        (b"berthP2" + _FORM[7:], {}),
        (_FORM, {"CNI_IFNAME": "net1"}),
        (_FORM, {"CNI_CONTAINERID": ""}),
        (_FORM, {"CNI_COMMAND": "CHECK"}),
    ],
)
def test_without_a_form_of_this_namespace_the_agent_makes_the_links(
    agent: Agent, form: bytes | None, changes: dict[str, str]
) -> None:
    assert "BERTH_LINK" not in asked_with(agent, form, {"CNI_CONTAINERID": "c"} | changes)


@settings(settings.get_profile("fuzz"))
@given(st.data())
def test_a_form_that_is_broken_breaks_no_plugin(agent: Agent, data: st.DataObject) -> None:
    form = bytearray(_FORM)
    for _ in range(data.draw(st.integers(1, 6))):
        form[data.draw(st.integers(0, len(form) - 1))] = data.draw(st.integers(0, 255))
    asked_with(agent, bytes(form[: data.draw(st.sampled_from([len(form), 20, 40, 100]))]), {"CNI_CONTAINERID": "c"})


@settings(settings.get_profile("fuzz"))
@given(
    st.tuples(*[st.integers(0, 70000) | st.sampled_from([0, 1, 4294967295])] * 3),
    st.sampled_from(["0", "97", "-1", "", "x"]),
    st.binary(max_size=300),
)
def test_batches_that_cannot_be_carried_out_are_refused(
    useless: Agent, sizes: tuple[int, int, int], ignored: str, rest: bytes
) -> None:
    """Nothing is sent to the kernel by a plugin that has made no pair."""
    text = f"berth/1 wire {' '.join(map(str, sizes))} {ignored}\n".encode() + rest
    useless.answer = Answer(text, ())
    expect_valid(useless.run(_ADD | {"CNI_CONTAINERID": "c"}, b"{}"), "ADD")


# ------------------------------------------------------------------------------------------------ word of pods' ends

_WORD = pairs.unwiring(_HERE + 1, "c", FIRST_PAIR_INDEX, (bytes([192, 0, 2, 1]),), 100)
"""Of another namespace, and that is looked at last: nothing of it is ever sent to this one's kernel."""
_DEL = {"CNI_COMMAND": "DEL", "CNI_IFNAME": "eth0", "CNI_CONTAINERID": "c"}
_SAFE = [*range(8), *range(16, 33)]
"""Bytes of its head without those of the namespace."""


@settings(settings.get_profile("fuzz"))
@given(st.data())
def test_word_that_is_broken_or_of_another_namespace_leaves_the_del_to_the_agent(
    agent: Agent, data: st.DataObject
) -> None:
    word = bytearray(_WORD)
    for _ in range(data.draw(st.integers(0, 6))):
        word[data.draw(st.sampled_from(_SAFE))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(word), 0, 10, 32, 33, len(word) - 1]))
    place = agent.folder / "unwire" / host_ifname("c", "eth0")
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(bytes(word[:cut]) + data.draw(st.sampled_from([b"", b"x", bytes(4000)])))
    agent.answer, said = Answer(b"berth/1 0", (b"",)), len(agent.requests)
    done = agent.run(_DEL, b"{}")
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(agent.requests) == said + 1
