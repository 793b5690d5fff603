"""Messages to receivers: signed as the specification says, within seconds, and never to an address of ours."""

import base64
import contextlib
import os
import socket
import ssl
import subprocess
import threading
import time

import pytest

from liverseg_core.errors import InputError
from store import receivers
from store.receivers import NOT_PUBLIC, Answer, check, post, reachable, signed
from store.settings import settings
from tests.receiver import Receiver

SECRET = "whsec_MfKQ9r8GKYqwTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def receiver(database):
    with Receiver() as one:
        yield one


@pytest.fixture
def private(database, monkeypatch):
    """Sets which networks are allowed; none to begin with."""

    def allow(networks):
        monkeypatch.setenv("LIVERSEG_WEBHOOK_PRIVATE", networks)
        settings.cache_clear()

    allow("")
    yield allow
    monkeypatch.undo()
    settings.cache_clear()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(receivers, "SEND_S", 1.0)


# ---- signatures ----------------------------------------------------------------------------------------------


def test_the_reference_library_signs_the_same():
    """The signature was computed with `standardwebhooks` 1.1.0, the specification's own library for Python."""
    headers = signed(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,ezPPwzspfIcp4cDp4tk6r6m9T8vF0TaBlLgkD3e7Qck=",
    }


def test_openssl_signs_the_same(tmp_path):
    body = '{"name": "Größe"}'.encode()
    headers = signed(SECRET, "msg_1", 1700000000, body)
    (tmp_path / "text").write_bytes(b"msg_1.1700000000." + body)
    key = base64.b64decode(SECRET.removeprefix("whsec_")).hex()
    words = ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{key}", "-binary", tmp_path / "text"]
    digest = subprocess.run(words, capture_output=True, check=True).stdout
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"


# ---- what is sent, and what is answered ----------------------------------------------------------------------


def test_a_message_arrives_with_its_signature(receiver):
    assert post(receiver.url, SECRET, "msg_1", '{"name": "Größe"}') == Answer(200, None)
    (got,) = receiver.got
    assert got.path == "/hook?lab=1"
    assert got.body == '{"name": "Größe"}'.encode()
    assert (got.id, got.headers["content-type"]) == ("msg_1", "application/json")
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert got.is_signed_with(SECRET)
    assert not got.is_signed_with("whsec_" + base64.b64encode(bytes(32)).decode())


@pytest.mark.parametrize("status", [300, 404, 410, 500])
def test_every_other_status_is_a_failure(receiver, status):
    receiver.status = status
    answer = post(receiver.url, SECRET, "msg_1", "{}")
    assert answer.status == receiver.status
    assert answer.error.startswith(f"answered {receiver.status}")


def test_a_redirect_is_not_followed(receiver):
    with Receiver() as other:
        receiver.status, receiver.location = 302, other.url
        told = "answered 302; redirects are not followed"
        assert post(receiver.url, SECRET, "msg_1", "{}") == Answer(302, told)
        receiver.status = 307  # with the same method and body
        assert post(receiver.url, SECRET, "msg_1", "{}").status == 307
        assert (len(receiver.got), other.got) == (2, [])


def test_a_slow_receiver_is_given_up(receiver, quick):
    receiver.hold()
    assert post(receiver.url, SECRET, "msg_1", "{}") == Answer(None, "no answer within 1 s")
    assert receiver.got == []


@contextlib.contextmanager
def answering(*parts, pause_s=0.0):
    """A server that sends these bytes, one after the other, whatever it is asked; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with contextlib.suppress(OSError):
                line, _ = listener.accept()
                with line:
                    line.recv(65536)
                    for part in parts:
                        line.sendall(part)
                        time.sleep(pause_s)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_receiver_that_drips_is_given_up_at_the_same_time(database, quick):
    """Each byte comes in time, the head of the answer does not."""
    drops = [bytes([byte]) for byte in b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 580]  # for a minute
    with answering(*drops, pause_s=0.1) as place:
        begun = time.monotonic()
        assert post(f"http://{place}/", SECRET, "msg_1", "{}") == Answer(None, "no answer within 1 s")
        assert 0.9 < time.monotonic() - begun < 30


def test_the_answers_body_is_not_waited_for(database, monkeypatch):
    monkeypatch.setattr(receivers, "SEND_S", 30.0)
    begun = time.monotonic()
    with answering(b"HTTP/1.1 204 No\r\n\r\n", *[b"x"] * 600, pause_s=0.1) as place:
        assert post(f"http://{place}/", SECRET, "msg_1", "{}") == Answer(204, None)
    assert time.monotonic() - begun < 30


def test_what_speaks_no_http(database):
    with answering(b"SSH-2.0-OpenSSH_9.2\r\n") as place:
        told = "ended the connection, or does not speak HTTP"
        assert post(f"http://{place}/", SECRET, "msg_1", "{}") == Answer(None, told)
    with answering() as place:
        assert post(f"http://{place}/", SECRET, "msg_1", "{}") == Answer(None, told)


def test_what_is_not_there(receiver):
    receiver.stop()
    assert post(receiver.url, SECRET, "msg_1", "{}") == Answer(None, "cannot be reached (Connection refused)")
    told = "its name cannot be resolved"
    assert post("http://nowhere.invalid/", SECRET, "msg_1", "{}") == Answer(None, told)
    assert post(f"http://{'x' * 70}.org/", SECRET, "msg_1", "{}") == Answer(None, told)


# ---- TLS -----------------------------------------------------------------------------------------------------


@pytest.fixture
def secure(receiver, tmp_path):
    """The receiver with a certificate of its own for 127.0.0.1; the certificate."""
    key, made = tmp_path / "key", tmp_path / "cert"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=lab"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", made]
    subprocess.run(words, capture_output=True, check=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, key)
    receiver._server.socket = context.wrap_socket(receiver._server.socket, server_side=True)
    return made


def test_a_certificate_must_be_trusted_and_of_that_name(receiver, secure, monkeypatch):
    url = receiver.url.replace("http:", "https:")
    answer = post(url, SECRET, "msg_1", "{}")
    assert answer.status is None
    assert answer.error.startswith("its certificate is not trusted (self-signed")
    monkeypatch.setenv("SSL_CERT_FILE", str(secure))
    assert post(url, SECRET, "msg_1", "{}") == Answer(200, None)
    assert receiver.got[-1].is_signed_with(SECRET)
    other = post(url.replace("127.0.0.1", "localhost"), SECRET, "msg_1", "{}")
    assert other.error == "its certificate is for another name"
    assert len(receiver.got) == 1


def test_tls_where_there_is_none(database):
    with answering(b"HTTP/1.1 400 No\r\n\r\n") as place:
        assert post(f"https://{place}/", SECRET, "msg_1", "{}").error.startswith("TLS failed")


# ---- addresses that messages may go to -----------------------------------------------------------------------

OURS = [
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1",
    "169.254.169.254", "169.254.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1",
    "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "fc00::1", "fec0::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::",
    "2001:0:7f00:1::", "2001:db8::1", "::127.0.0.1", "192.0.0.192", "168.63.129.16", "3fff::1",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "172.32.0.1", "100.128.0.1", "193.0.0.1", "2a00:1450:4001:80b::200e", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("address", OURS)
def test_what_is_not_public_is_out_of_reach(private, address):
    assert not reachable(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_can_be_reached(private, address):
    assert reachable(address)


def test_whoever_runs_the_service_may_allow_networks(private):
    private(" 10.1.0.0/16, fd00::/8,127.0.0.1 ")
    assert all(map(reachable, ["10.1.2.3", "::ffff:10.1.2.3", "fd00::5", "127.0.0.1"]))
    assert not any(map(reachable, ["10.2.0.1", "127.0.0.2", "169.254.169.254", "fe80::1"]))


def test_this_machine_is_out_of_reach_by_its_public_address_too(receiver, private, monkeypatch):
    """Here 127.0.0.1 stands for it, which counts as public meanwhile."""
    monkeypatch.setattr(receivers, "_public", lambda _: True)
    assert post(receiver.url, SECRET, "msg_1", "{}") == Answer(None, NOT_PUBLIC)
    assert receiver.got == []
    private("127.0.0.1/32")
    assert post(receiver.url, SECRET, "msg_1", "{}") == Answer(200, None)


SPELLINGS = ["127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost", "[::ffff:127.0.0.1]"]


@pytest.mark.parametrize("host", SPELLINGS)
def test_no_spelling_of_loopback_is_sent_to(receiver, private, host):
    """The receiver is there and would answer."""
    url = f"http://{host}:{receiver.port}/"
    assert post(url, SECRET, "msg_1", "{}") == Answer(None, NOT_PUBLIC)
    with pytest.raises(InputError, match="LIVERSEG_WEBHOOK_PRIVATE"):
        check(url)
    assert receiver.got == []
    private("127.0.0.1/32")
    assert post(url, SECRET, "msg_1", "{}") == Answer(200, None)
    check(url)


def test_what_was_looked_at_is_what_is_connected_to(receiver, private, monkeypatch):
    """A name that resolves to something else each time it is asked for, as in DNS rebinding."""
    private("127.0.0.2/32")
    asked = []

    def resolve(host, port, **_):
        asked.append(host)
        address = "127.0.0.2" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with Receiver("127.0.0.2") as allowed:
        receiver.stop()
        receiver.port = allowed.port
        receiver.start()
        url = f"http://rebinding.example:{allowed.port}/"
        assert post(url, SECRET, "msg_1", "{}") == Answer(200, None)
        assert post(url, SECRET, "msg_2", "{}") == Answer(None, NOT_PUBLIC)
        assert ([one.id for one in allowed.got], receiver.got, len(asked)) == (["msg_1"], [], 2)


def test_of_several_addresses_only_those_allowed_are_tried(receiver, private, monkeypatch):
    private("127.0.0.2/32")
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, receiver.port)) for one in ("127.0.0.1", "127.0.0.2")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    assert post("http://two.example/", SECRET, "msg_1", "{}").error == "cannot be reached (Connection refused)"
    assert receiver.got == []


def test_proxies_of_the_environment_are_not_asked(receiver, private, monkeypatch):
    """One would connect to whatever it is told to."""
    for name in ("http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{receiver.port}")
    assert post("http://169.254.169.254/latest", SECRET, "msg_1", "{}") == Answer(None, NOT_PUBLIC)
    assert receiver.got == []
    assert os.environ["http_proxy"]


@pytest.mark.parametrize(
    "url",
    [
        "", "example.org/x", "ftp://example.org", "file:///etc/passwd", "http://", "http:///x", "http://:80/",
        "https://example.org:0/", "https://example.org:99999/", "https://example.org:x/", "https://exa mple.org/",
        "https://example.org/\r\nx: y", "https://example.org/ä", "http://[::1", "http://[zz]/", "http://-x.org/",
        "https://user@example.org/", "https://user:pw-canary@example.org/", "https://example.org/#part",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(private, url):
    with pytest.raises(InputError) as refused:
        check(url)
    assert refused.value.path == "url"
    assert "pw-canary" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["https://nowhere.invalid/hook", "http://8.8.8.8:8080/a/b?c=d&e=%20", "http://[2a00::1]/"]
)
def test_what_may_be_an_address_is_taken(private, url):
    check(url)
